//! librados and librbd, loaded while running: nothing of Ceph is needed to build xblade, or to run it without an RBD export.
//!
//! All of the unsafe code of the store is here. What is public to the store is safe: handles close what they opened, and the memory of
//! an operation belongs to the operation until librbd has called back.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use super::error::{Errno, LoadError, c, check};

/// Calls a function of the handle's library.
macro_rules! call {
    ($of:expr, $name:ident($($argument:expr),*)) => {
        // SAFETY: handles live as long as the values that own them, and pointers are to NUL-terminated texts and to places of the caller's
        // that have the room that is announced.
        check(unsafe { ($of.functions.$name)($($argument),*) })
    };
}

/// A text that a library gave.
fn text(text: Text) -> String {
    // SAFETY: only asked of texts in what a successful call has filled in: NUL-terminated, and freed later.
    let text = text.map(|text| unsafe { CStr::from_ptr(text.as_ptr()) });
    text.unwrap_or_default().to_string_lossy().into_owned()
}

/// A `char *` of a library's; null until it is filled in.
type Text = Option<NonNull<c_char>>;

/// `rbd_image_watcher_t`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Watcher {
    addr: Text,
    id: i64,
    cookie: u64,
}

/// `rbd_config_option_t`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ConfigOption {
    name: Text,
    value: Text,
    source: c_int,
}

type Handle = *mut c_void;
type Ended = unsafe extern "C" fn(Handle, *mut c_void);
type Updated = unsafe extern "C" fn(*mut c_void);

/// The functions that are used, each under its name in the library.
macro_rules! functions {
    ($($library:ident { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)+ })+) => {
        #[derive(Debug)]
        pub(super) struct Functions { $($($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+)+ }

        impl Functions {
            fn load($($library: &Library),+) -> Result<Functions, LoadError> {
                Ok(Functions { $($($name: {
                    let symbol = $library.symbol(concat!(stringify!($name), "\0"))?;
                    // SAFETY: the type is the one that Ceph's headers (rados/librados.h, rbd/librbd.h) give the function of this name,
                    // whose ABI has been kept under the library's soname since.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(symbol) }
                },)+)+ })
            }
        }
    };
}

functions! {
    librados {
        rados_create: fn(*mut Handle, *const c_char) -> c_int;
        rados_conf_read_file: fn(Handle, *const c_char) -> c_int;
        rados_conf_set: fn(Handle, *const c_char, *const c_char) -> c_int;
        rados_connect: fn(Handle) -> c_int;
        rados_shutdown: fn(Handle);
        rados_ioctx_create: fn(Handle, *const c_char, *mut Handle) -> c_int;
        rados_ioctx_set_namespace: fn(Handle, *const c_char);
        rados_ioctx_destroy: fn(Handle);
    }
    librbd {
        rbd_open: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_open_read_only: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_close: fn(Handle) -> c_int;
        rbd_get_size: fn(Handle, *mut u64) -> c_int;
        rbd_get_features: fn(Handle, *mut u64) -> c_int;
        rbd_lock_acquire: fn(Handle, c_int) -> c_int;
        rbd_list_lockers: fn(Handle, *mut c_int, *mut c_char, *mut usize, *mut c_char, *mut usize, *mut c_char, *mut usize, *mut c_char, *mut usize) -> isize;
        rbd_is_exclusive_lock_owner: fn(Handle, *mut c_int) -> c_int;
        rbd_watchers_list: fn(Handle, *mut Watcher, *mut usize) -> c_int;
        rbd_watchers_list_cleanup: fn(*mut Watcher, usize);
        rbd_config_image_list: fn(Handle, *mut ConfigOption, *mut c_int) -> c_int;
        rbd_config_image_list_cleanup: fn(*mut ConfigOption, c_int);
        rbd_update_watch: fn(Handle, *mut u64, Updated, *mut c_void) -> c_int;
        rbd_update_unwatch: fn(Handle, u64) -> c_int;
        rbd_aio_create_completion: fn(*mut c_void, Ended, *mut Handle) -> c_int;
        rbd_aio_get_return_value: fn(Handle) -> isize;
        rbd_aio_release: fn(Handle);
        rbd_aio_read: fn(Handle, u64, usize, *mut c_char, Handle) -> c_int;
        rbd_aio_write: fn(Handle, u64, usize, *const c_char, Handle) -> c_int;
        rbd_aio_discard: fn(Handle, u64, u64, Handle) -> c_int;
        rbd_aio_flush: fn(Handle, Handle) -> c_int;
    }
}

/// A library that stays loaded: its threads outlive whatever is closed.
struct Library {
    handle: *mut c_void,
    name: &'static str,
}

impl Library {
    fn open(name: &'static str, package: &'static str) -> Result<Library, LoadError> {
        let missing = |reason: String| LoadError::Missing {
            library: name,
            reason,
            package,
        };
        let soname = c(name).map_err(|error| missing(error.to_string()))?;
        // SAFETY: a NUL-terminated name. The initialisers of the library run, as those of any library that is linked do.
        let handle = unsafe {
            libc::dlopen(
                soname.as_ptr(),
                libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE,
            )
        };
        if !handle.is_null() {
            return Ok(Library { handle, name });
        }
        // SAFETY: the text, NUL-terminated, belongs to the linker and lives until this thread's next call.
        let reason = text(NonNull::new(unsafe { libc::dlerror() }));
        Err(missing(reason))
    }

    /// `name` ends with a NUL.
    fn symbol(&self, name: &str) -> Result<*mut c_void, LoadError> {
        // SAFETY: a handle that dlopen gave, and a NUL-terminated name.
        let symbol = unsafe { libc::dlsym(self.handle, name.as_ptr().cast()) };
        if symbol.is_null() {
            return Err(LoadError::TooOld {
                library: self.name,
                function: name.trim_end_matches('\0').to_owned(),
            });
        }
        Ok(symbol)
    }
}

/// Loads both libraries, under these names.
pub(super) fn load(librados: &'static str, librbd: &'static str) -> Result<Functions, LoadError> {
    // librbd first: its package brings both.
    let librbd = Library::open(librbd, "librbd1")?;
    let librados = Library::open(librados, "librados2")?;
    Functions::load(&librados, &librbd)
}

/// The functions, loaded with the first call.
pub(super) fn functions() -> Result<&'static Functions, LoadError> {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    if let Some(loaded) = FUNCTIONS.get() {
        return Ok(loaded);
    }
    // A failure is not kept: the package may be installed while a daemon runs.
    let loaded = load("librados.so.2", "librbd.so.1")?;
    Ok(FUNCTIONS.get_or_init(|| loaded))
}

/// A client of a cluster (`rados_t`), with threads of its own.
#[derive(Debug)]
pub(crate) struct Rados {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: librados' handles may be used from any thread, several at a time (rados/librados.h).
unsafe impl Send for Rados {}
// SAFETY: the same.
unsafe impl Sync for Rados {}

impl Rados {
    /// A client of this name (`client.USER`), not connected yet.
    pub(crate) fn new(user: &str) -> Result<Result<Rados, Errno>, LoadError> {
        let functions = functions()?;
        let mut handle = ptr::null_mut();
        let created = c(user).and_then(|user| {
            // SAFETY: a NUL-terminated name and a place for the handle.
            check(unsafe { (functions.rados_create)(&raw mut handle, user.as_ptr()) })
        });
        Ok(created.map(|_| Rados { functions, handle }))
    }

    /// Reads a configuration file; none: where Ceph looks by itself.
    pub(crate) fn read_file(&self, file: Option<&str>) -> Result<(), Errno> {
        let file = file.map(c).transpose()?;
        let path = file.as_ref().map_or(ptr::null(), |file| file.as_ptr());
        call!(self, rados_conf_read_file(self.handle, path)).map(drop)
    }

    /// Sets an option; most take effect only before the connection is made.
    pub(crate) fn set(&self, option: &str, value: &str) -> Result<(), Errno> {
        let (option, value) = (c(option)?, c(value)?);
        call!(self, rados_conf_set(self.handle, option.as_ptr(), value.as_ptr())).map(drop)
    }

    /// Connects, once. Blocks.
    pub(crate) fn connect(&self) -> Result<(), Errno> {
        call!(self, rados_connect(self.handle)).map(drop)
    }

    /// Opens a pool, and a namespace in it. Blocks.
    pub(crate) fn pool(&self, pool: &str, namespace: Option<&str>) -> Result<Pool, Errno> {
        let (pool, namespace) = (c(pool)?, namespace.map(c).transpose()?);
        let mut handle = ptr::null_mut();
        call!(
            self,
            rados_ioctx_create(self.handle, pool.as_ptr(), &raw mut handle)
        )?;
        if let Some(namespace) = namespace {
            // SAFETY: the handle was made above.
            unsafe { (self.functions.rados_ioctx_set_namespace)(handle, namespace.as_ptr()) };
        }
        Ok(Pool {
            functions: self.functions,
            handle,
        })
    }
}

impl Drop for Rados {
    fn drop(&mut self) {
        // SAFETY: nobody has the handle any more. Pools and images of it are gone: whoever holds one holds this, too.
        unsafe { (self.functions.rados_shutdown)(self.handle) };
    }
}

/// A pool (`rados_ioctx_t`). The [`Rados`] that gave it has to live as long.
#[derive(Debug)]
pub(crate) struct Pool {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: as for Rados; it is used to open images only.
unsafe impl Send for Pool {}
// SAFETY: the same.
unsafe impl Sync for Pool {}

impl Pool {
    /// Opens an image, or a snapshot of it. Blocks.
    pub(crate) fn open(
        &self,
        image: &str,
        snapshot: Option<&str>,
        read_only: bool,
    ) -> Result<RawImage, Errno> {
        let (image, snapshot) = (c(image)?, snapshot.map(c).transpose()?);
        let snapshot = snapshot.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        let open = match read_only {
            true => self.functions.rbd_open_read_only,
            false => self.functions.rbd_open,
        };
        let mut handle = ptr::null_mut();
        // SAFETY: a live handle, NUL-terminated names (or null for no snapshot) and a place for the new handle.
        check(unsafe { open(self.handle, image.as_ptr(), &raw mut handle, snapshot) })?;
        Ok(RawImage {
            functions: self.functions,
            handle,
            watch: None,
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: nobody has the handle any more.
        unsafe { (self.functions.rados_ioctx_destroy)(self.handle) };
    }
}

/// What is called when an image's header changes.
pub(crate) type OnUpdate = Box<dyn Fn() + Send + Sync>;

/// An open image. The [`Pool`] that gave it has to live as long. Dropping it blocks until what was started has ended.
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

/// What is called with an operation's end, and with its buffer.
pub(crate) type Done = Box<dyn FnOnce(Result<Box<[u8]>, Errno>) + Send>;

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
    done: Done,
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

impl RawImage {
    /// Starts an operation, whose buffer belongs to it until it ends; `done` is called with both by a thread of librbd's, unless it could
    /// not be started.
    pub(crate) fn start(&self, operation: Operation, mut buffer: Box<[u8]>, done: Done) -> Result<(), Errno> {
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

    /// Takes the exclusive lock, for good: it is not handed to whoever asks for it. Blocks.
    pub(crate) fn lock(&self) -> Result<(), Errno> {
        const RBD_LOCK_MODE_EXCLUSIVE: c_int = 0;
        call!(self, rbd_lock_acquire(self.handle, RBD_LOCK_MODE_EXCLUSIVE)).map(drop)
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
