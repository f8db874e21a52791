//! librados and librbd, loaded while running: nothing of Ceph is needed to build xblade, or to run it without an RBD export.
//!
//! All of the store's unsafe code is here and in [`image`]. What is public to the store is safe: handles close what they opened, and the memory of
//! an operation belongs to the operation until librbd has called back.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
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

mod image;

pub(crate) use image::{Operation, RawImage};

/// Room for the value of an option.
const OPTION_BYTES: usize = 1 << 16;
/// Room for the names of a pool's images, at first.
const NAMES_BYTES: usize = 1 << 16;

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

/// `rbd_linked_image_spec_t`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkedImage {
    pool_id: i64,
    pool_name: Text,
    pool_namespace: Text,
    image_id: Text,
    image_name: Text,
    trash: bool,
}

/// `rbd_snap_spec_t`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Snapshot {
    id: u64,
    namespace_type: c_int,
    name: Text,
}

type Handle = *mut c_void;
type Found = unsafe extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;
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
        rados_conf_get: fn(Handle, *const c_char, *mut c_char, usize) -> c_int;
        rados_connect: fn(Handle) -> c_int;
        rados_shutdown: fn(Handle);
        rados_getaddrs: fn(Handle, *mut *mut c_char) -> c_int;
        rados_blocklist_add: fn(Handle, *mut c_char, u32) -> c_int;
        rados_ioctx_create: fn(Handle, *const c_char, *mut Handle) -> c_int;
        rados_ioctx_set_namespace: fn(Handle, *const c_char);
        rados_ioctx_destroy: fn(Handle);
    }
    librbd {
        rbd_open: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_open_read_only: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_clone: fn(Handle, *const c_char, *const c_char, Handle, *const c_char, u64, *mut c_int) -> c_int;
        rbd_remove: fn(Handle, *const c_char) -> c_int;
        rbd_list: fn(Handle, *mut c_char, *mut usize) -> c_int;
        rbd_close: fn(Handle) -> c_int;
        rbd_get_size: fn(Handle, *mut u64) -> c_int;
        rbd_get_features: fn(Handle, *mut u64) -> c_int;
        rbd_get_parent: fn(Handle, *mut LinkedImage, *mut Snapshot) -> c_int;
        rbd_linked_image_spec_cleanup: fn(*mut LinkedImage);
        rbd_snap_spec_cleanup: fn(*mut Snapshot);
        rbd_diff_iterate2: fn(Handle, *const c_char, u64, u64, u8, u8, Found, *mut c_void) -> c_int;
        rbd_lock_acquire: fn(Handle, c_int) -> c_int;
        rbd_lock_break: fn(Handle, c_int, *const c_char) -> c_int;
        rbd_metadata_get: fn(Handle, *const c_char, *mut c_char, *mut usize) -> c_int;
        rbd_metadata_set: fn(Handle, *const c_char, *const c_char) -> c_int;
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

    /// An option as it is now, with what stands for the client's name and its kin filled in.
    pub(crate) fn get(&self, option: &str) -> Result<String, Errno> {
        let option = c(option)?;
        let mut value = vec![0u8; OPTION_BYTES];
        let (into, room) = (value.as_mut_ptr().cast(), value.len());
        call!(self, rados_conf_get(self.handle, option.as_ptr(), into, room))?;
        let value = CStr::from_bytes_until_nul(&value).unwrap_or_default();
        Ok(value.to_string_lossy().into_owned())
    }

    /// Connects, once. Blocks.
    pub(crate) fn connect(&self) -> Result<(), Errno> {
        call!(self, rados_connect(self.handle)).map(drop)
    }

    /// The addresses that a connected client is known by, as Ceph writes them.
    pub(crate) fn addresses(&self) -> Result<String, Errno> {
        let mut addresses = ptr::null_mut();
        call!(self, rados_getaddrs(self.handle, &raw mut addresses))?;
        let told = text(NonNull::new(addresses));
        // SAFETY: librados made the text for the caller (`strdup`), and nobody has it any more.
        unsafe { libc::free(addresses.cast()) };
        Ok(told)
    }

    /// Has the cluster refuse whatever a client of this address still sends, for so long. Blocks.
    pub(crate) fn shut_out(&self, client: &str, seconds: u32) -> Result<(), Errno> {
        let client = c(client)?.into_raw();
        let done = call!(self, rados_blocklist_add(self.handle, client, seconds));
        // SAFETY: it was made by `into_raw` above, and librados copies the text.
        drop(unsafe { CString::from_raw(client) });
        done.map(drop)
    }

    /// Opens a pool, and a namespace in it. Blocks.
    pub(crate) fn pool(&self, pool: &str, namespace: Option<&str>) -> Result<RadosPool, Errno> {
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
        Ok(RadosPool {
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
pub(crate) struct RadosPool {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: as for Rados; it is used to open images only.
unsafe impl Send for RadosPool {}
// SAFETY: the same.
unsafe impl Sync for RadosPool {}

impl RadosPool {
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
        Ok(RawImage::new(self.functions, handle))
    }

    /// Makes a clone of a snapshot in the same pool. Blocks.
    pub(crate) fn clone_image(
        &self,
        (image, snapshot): (&str, &str),
        name: &str,
        features: u64,
    ) -> Result<(), Errno> {
        let (image, snapshot, name) = (c(image)?, c(snapshot)?, c(name)?);
        // 0: objects of the usual size.
        let mut order = 0;
        let (pool, of, at, called) = (self.handle, image.as_ptr(), snapshot.as_ptr(), name.as_ptr());
        call!(
            self,
            rbd_clone(pool, of, at, pool, called, features, &raw mut order)
        )
        .map(drop)
    }

    /// Takes an image away. Blocks until all of its objects are gone.
    pub(crate) fn remove(&self, image: &str) -> Result<(), Errno> {
        let image = c(image)?;
        call!(self, rbd_remove(self.handle, image.as_ptr())).map(drop)
    }

    /// The names of all images. Blocks.
    pub(crate) fn images(&self) -> Result<Vec<String>, Errno> {
        let mut names = vec![0u8; NAMES_BYTES];
        loop {
            let mut len = names.len();
            let into = names.as_mut_ptr().cast();
            match call!(self, rbd_list(self.handle, into, &raw mut len)) {
                // It says how much room they need.
                Err(Errno(libc::ERANGE)) => names.resize(len.max(names.len() * 2), 0),
                Err(errno) => return Err(errno),
                Ok(_) => {
                    let all = names.split(|byte| *byte == 0).take_while(|name| !name.is_empty());
                    return Ok(all
                        .map(|name| String::from_utf8_lossy(name).into_owned())
                        .collect());
                }
            }
        }
    }
}

impl Drop for RadosPool {
    fn drop(&mut self) {
        // SAFETY: nobody has the handle any more.
        unsafe { (self.functions.rados_ioctx_destroy)(self.handle) };
    }
}
