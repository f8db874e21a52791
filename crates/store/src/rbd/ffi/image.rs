//! An open image: its operations, its lock, its metadata.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use super::super::error::{Errno, c, check};
use super::{ConfigOption, Functions, Handle, LinkedImage, Snapshot, Watcher, text};

/// `rbd_lock_mode_t`
const RBD_LOCK_MODE_EXCLUSIVE: c_int = 0;
/// Room for a value of an image's metadata, with its end.
const METADATA_BYTES: usize = 1 << 16;

/// What is called when an image's header changes.
pub(crate) type OnUpdate = Box<dyn Fn() + Send + Sync>;

/// An open image. The [`RadosPool`](super::RadosPool) that gave it has to live as long. Dropping it blocks until what was started has ended.
#[derive(Debug)]
pub(crate) struct RawImage {
    functions: &'static Functions,
    handle: Handle,
    /// The watch and what it calls, which librbd holds a pointer to.
    watch: Option<(u64, *mut OnUpdate)>,
}

// SAFETY: librbd's image handles may be used from any thread, several at a time; the callback is Send and Sync.
unsafe impl Send for RawImage {}
// SAFETY: the same.
unsafe impl Sync for RawImage {}

/// The image that a clone was made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) pool: String,
    /// Empty: none.
    pub(crate) namespace: String,
    pub(crate) image: String,
}

/// What is called with an operation's end, and with its buffer.
pub(crate) type OnDone = Box<dyn FnOnce(Result<Box<[u8]>, Errno>) + Send>;

/// What librbd is asked for, each at a byte of the image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// Into the buffer.
    Read(u64),
    /// Of the buffer.
    Write(u64),
    /// So many bytes are given back.
    Discard(u64, u64),
    /// Waits for all that was written before.
    Flush,
}

/// An operation under way: librbd has its address and the buffer's.
struct Aio {
    functions: &'static Functions,
    buffer: Box<[u8]>,
    done: OnDone,
}

/// librbd's callback, from a thread of its own.
unsafe extern "C" fn ended(completion: Handle, operation: *mut c_void) {
    // SAFETY: `start` gave this pointer for this completion, whose end is called exactly once.
    let operation = unsafe { Box::from_raw(operation.cast::<Aio>()) };
    let Aio {
        functions,
        buffer,
        done,
    } = *operation;
    // SAFETY: the completion is alive until it is released, here.
    let result = unsafe {
        let result = (functions.rbd_aio_get_return_value)(completion);
        (functions.rbd_aio_release)(completion);
        result
    };
    let result = match i32::try_from(result) {
        Ok(result) if result < 0 => Err(Errno(result.saturating_neg())),
        _ => Ok(buffer),
    };
    done(result);
}

/// librbd's callback for a changed header.
unsafe extern "C" fn updated(told: *mut c_void) {
    // SAFETY: `watch` gave this pointer, and it is freed only after the watch has ended.
    unsafe { (*told.cast::<OnUpdate>())() };
}

/// librbd's callback for a part of an image that has something of its own, from the thread that asked.
unsafe extern "C" fn found(_at: u64, _len: usize, _exists: c_int, found: *mut c_void) -> c_int {
    // SAFETY: `has_data` gave this pointer, and waits.
    unsafe { *found.cast::<bool>() = true };
    0
}

impl RawImage {
    /// What a pool has opened.
    pub(super) const fn new(functions: &'static Functions, handle: Handle) -> RawImage {
        RawImage {
            functions,
            handle,
            watch: None,
        }
    }

    /// Starts an operation, whose buffer belongs to it until it ends; `done` is called with both by a thread of librbd's, unless it could
    /// not be started.
    pub(crate) fn start(
        &self,
        operation: Operation,
        mut buffer: Box<[u8]>,
        done: OnDone,
    ) -> Result<(), Errno> {
        let (memory, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        let functions = self.functions;
        let aio = Box::into_raw(Box::new(Aio {
            functions,
            buffer,
            done,
        }));
        let mut completion = ptr::null_mut();
        // Here the pointers are to the operation as well, which lives until `ended` takes it, and to its buffer.
        let made = call!(
            self,
            rbd_aio_create_completion(aio.cast(), ended, &raw mut completion)
        );
        let started = made.and_then(|_| match operation {
            Operation::Read(at) => call!(self, rbd_aio_read(self.handle, at, len, memory, completion)),
            Operation::Write(at) => call!(self, rbd_aio_write(self.handle, at, len, memory, completion)),
            Operation::Discard(at, len) => call!(self, rbd_aio_discard(self.handle, at, len, completion)),
            Operation::Flush => call!(self, rbd_aio_flush(self.handle, completion)),
        });
        if started.is_err() {
            // SAFETY: nothing was started that would call back, so that nobody else has either.
            unsafe {
                drop(Box::from_raw(aio));
                if !completion.is_null() {
                    (self.functions.rbd_aio_release)(completion);
                }
            }
        }
        started.map(drop)
    }

    /// Its size in bytes. Blocks when its header has changed.
    pub(crate) fn bytes(&self) -> Result<u64, Errno> {
        let mut bytes = 0;
        call!(self, rbd_get_size(self.handle, &raw mut bytes))?;
        Ok(bytes)
    }

    /// The bits of `RBD_FEATURE_…`.
    pub(crate) fn features(&self) -> Result<u64, Errno> {
        let mut features = 0;
        call!(self, rbd_get_features(self.handle, &raw mut features))?;
        Ok(features)
    }

    /// What it was cloned of; `None`: nothing. Blocks.
    pub(crate) fn parent(&self) -> Result<Option<Parent>, Errno> {
        let (mut image, mut snapshot) = (LinkedImage::default(), Snapshot::default());
        match call!(
            self,
            rbd_get_parent(self.handle, &raw mut image, &raw mut snapshot)
        ) {
            Err(Errno(libc::ENOENT)) => return Ok(None),
            result => result?,
        };
        let parent = Parent {
            pool: text(image.pool_name),
            namespace: text(image.pool_namespace),
            image: text(image.image_name),
        };
        // SAFETY: what the call above gave is freed once.
        unsafe {
            (self.functions.rbd_linked_image_spec_cleanup)(&raw mut image);
            (self.functions.rbd_snap_spec_cleanup)(&raw mut snapshot);
        }
        Ok(Some(parent))
    }

    /// Whether anything was ever written to it that is there yet; what it has of its parent is not its own. Blocks.
    pub(crate) fn has_data(&self) -> Result<bool, Errno> {
        let (bytes, mut has) = (self.bytes()?, false);
        let told = (&raw mut has).cast();
        // Since it was made, without the parent, by whole objects.
        call!(
            self,
            rbd_diff_iterate2(self.handle, ptr::null(), 0, bytes, 0, 1, found, told)
        )?;
        Ok(has)
    }

    /// Takes the exclusive lock, for good: it is not handed to whoever asks for it. Blocks.
    pub(crate) fn lock(&self) -> Result<(), Errno> {
        call!(self, rbd_lock_acquire(self.handle, RBD_LOCK_MODE_EXCLUSIVE)).map(drop)
    }

    /// Takes the lock from the client with this address, which the cluster shuts out first: returns when nothing of that client can be
    /// written any more. Blocks.
    pub(crate) fn break_lock(&self, owner: &str) -> Result<(), Errno> {
        let owner = c(owner)?;
        call!(
            self,
            rbd_lock_break(self.handle, RBD_LOCK_MODE_EXCLUSIVE, owner.as_ptr())
        )
        .map(drop)
    }

    /// A value of the image's metadata; `None`: there is none of that name. Blocks.
    pub(crate) fn metadata(&self, key: &str) -> Result<Option<String>, Errno> {
        let key = c(key)?;
        let mut value = vec![0u8; METADATA_BYTES];
        let mut len = value.len();
        let (into, room) = (value.as_mut_ptr().cast(), &raw mut len);
        match call!(self, rbd_metadata_get(self.handle, key.as_ptr(), into, room)) {
            Err(Errno(libc::ENOENT)) => Ok(None),
            Err(errno) => Err(errno),
            Ok(_) => {
                let value = CStr::from_bytes_until_nul(&value).unwrap_or_default();
                Ok(Some(value.to_string_lossy().into_owned()))
            }
        }
    }

    /// Sets a value of the image's metadata. Blocks.
    pub(crate) fn set_metadata(&self, key: &str, value: &str) -> Result<(), Errno> {
        let (key, value) = (c(key)?, c(value)?);
        call!(self, rbd_metadata_set(self.handle, key.as_ptr(), value.as_ptr())).map(drop)
    }

    /// Asks the cluster whether this client has the lock. Blocks.
    pub(crate) fn is_lock_owner(&self) -> Result<bool, Errno> {
        let mut is_owner = 0;
        call!(self, rbd_is_exclusive_lock_owner(self.handle, &raw mut is_owner))?;
        Ok(is_owner != 0)
    }

    /// The address of the client that has the lock, also of an image that is only read. Blocks.
    pub(crate) fn lock_owner(&self) -> Result<Option<String>, Errno> {
        // Tag, clients, cookies and addresses; of more than one the texts follow each other.
        let (mut is_exclusive, mut texts, mut lens) = (0, [[0u8; 4096]; 4], [4096; 4]);
        let [tag, clients, cookies, addresses] = texts.each_mut().map(|text| text.as_mut_ptr().cast());
        let [len0, len1, len2, len3] = lens.each_mut().map(ptr::from_mut);
        let list = self.functions.rbd_list_lockers;
        let (image, exclusive) = (self.handle, &raw mut is_exclusive);
        // SAFETY: a live image, and room for as many bytes as are announced.
        let found = unsafe {
            list(
                image, exclusive, tag, len0, clients, len1, cookies, len2, addresses, len3,
            )
        };
        let found = check(c_int::try_from(found).unwrap_or(c_int::MAX))?;
        let first = CStr::from_bytes_until_nul(&texts[3]).unwrap_or_default();
        Ok((found > 0).then(|| first.to_string_lossy().into_owned()))
    }

    /// The addresses of all clients that watch the image: those that have it open for writing. Blocks.
    pub(crate) fn watchers(&self) -> Result<Vec<String>, Errno> {
        let (mut watchers, mut count) = (vec![Watcher::default(); 64], 64);
        call!(
            self,
            rbd_watchers_list(self.handle, watchers.as_mut_ptr(), &raw mut count)
        )?;
        let addresses = watchers
            .iter()
            .take(count)
            .map(|watcher| text(watcher.addr))
            .collect();
        // SAFETY: what the call above gave is freed once.
        unsafe { (self.functions.rbd_watchers_list_cleanup)(watchers.as_mut_ptr(), count) };
        Ok(addresses)
    }

    /// librbd's options in force for the image, with those of its pool and its metadata. Blocks.
    pub(crate) fn options(&self) -> Result<Vec<(String, String)>, Errno> {
        let (mut options, mut count) = (vec![ConfigOption::default(); 1024], 1024);
        call!(
            self,
            rbd_config_image_list(self.handle, options.as_mut_ptr(), &raw mut count)
        )?;
        let filled = options.iter().take(count.try_into().unwrap_or(0));
        let values = filled
            .map(|option| (text(option.name), text(option.value)))
            .collect();
        // SAFETY: what the call above gave is freed once.
        unsafe { (self.functions.rbd_config_image_list_cleanup)(options.as_mut_ptr(), count) };
        Ok(values)
    }

    /// Has `told` called, by a thread of librbd's, whenever the image's header changes. Once for an image.
    pub(crate) fn watch(&mut self, told: OnUpdate) -> Result<(), Errno> {
        let told = Box::into_raw(Box::new(told));
        let mut handle = 0;
        let watched = call!(
            self,
            rbd_update_watch(self.handle, &raw mut handle, updated, told.cast())
        );
        match watched {
            Ok(_) => self.watch = Some((handle, told)),
            // SAFETY: nobody else has it.
            Err(_) => drop(unsafe { Box::from_raw(told) }),
        }
        watched.map(drop)
    }
}

impl Drop for RawImage {
    fn drop(&mut self) {
        let ended = self.watch.take().map(|(watch, told)| {
            // SAFETY: a live image and its watch. After this nothing is called for it any more.
            (
                unsafe { (self.functions.rbd_update_unwatch)(self.handle, watch) },
                told,
            )
        });
        // SAFETY: nobody has the handle any more. librbd ends what is under way first.
        unsafe { (self.functions.rbd_close)(self.handle) };
        if let Some((0.., told)) = ended {
            // SAFETY: the watch has ended well, so its callback is nobody's any more. Else it is left to librbd.
            drop(unsafe { Box::from_raw(told) });
        }
    }
}
