//! SIGBUS on a mapped page (a file cut short, an I/O error, no space for a hole) made into something that the code
//! which touched the page can ask about.
//!
//! The handler puts an anonymous page of zeros where the fault was, so that the copy ends, and before that makes
//! the mapping's *epoch* odd. Whoever copies compares the epoch before and after: the same even number means that
//! every byte came from or went to the file. An odd epoch stays until [`Guard::mend`] has mapped the file again.
//!
//! Why each step holds against the others:
//! - The epoch turns odd *before* the anonymous page appears, so a copy that met the page sees a changed epoch.
//! - The epoch never goes back, so a copy that slept through fault and repair sees a changed epoch too.
//! - Mending is done only with no handler at work in between (`active`), so an anonymous page can never appear
//!   unnoticed after the mapping was declared whole.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// One mapping, as the handler sees it. Slots are never freed, only used again, so the handler may walk the list
/// at any time.
#[derive(Debug)]
pub(crate) struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    page_bytes: AtomicUsize,
    epoch: AtomicU64,
    active: AtomicUsize,
    taken: AtomicBool,
    next: AtomicPtr<Slot>,
}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

/// What handled SIGBUS before; known before our handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Makes faults in a mapping survivable; dropped before the mapping is unmapped.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: &'static Slot,
}

impl Guard {
    /// Watches over `[start, start + bytes)`.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub(crate) fn new(start: usize, bytes: usize, page_bytes: usize) -> io::Result<Guard> {
        install()?;
        let slot = vacant().unwrap_or_else(append);
        slot.page_bytes.store(page_bytes, SeqCst);
        slot.start.store(start, SeqCst);
        // The end comes last: until then the slot covers nothing.
        slot.end.store(start + bytes, SeqCst);
        Ok(Guard { slot })
    }

    /// Odd: somewhere in the mapping lies a page that is not the file's.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.slot.epoch.load(SeqCst)
    }

    /// Runs `remap`, which must put the file back over the whole mapping, and declares the mapping whole unless a
    /// fault came meanwhile.
    ///
    /// # Errors
    /// Of `remap`.
    pub(crate) fn mend(&self, remap: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let before = self.epoch();
        if before.is_multiple_of(2) || self.slot.active.load(SeqCst) != 0 {
            return Ok(());
        }
        remap()?;
        // Fails if a handler has been there since: its page may have come after the remapping.
        let _ = self
            .slot
            .epoch
            .compare_exchange(before, before + 1, SeqCst, SeqCst);
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.end.store(0, SeqCst);
        self.slot.start.store(0, SeqCst);
        // Whole again for the next user, and different from all that was seen before.
        let epoch = self.slot.epoch.load(SeqCst);
        self.slot.epoch.store((epoch | 1) + 1, SeqCst);
        self.slot.taken.store(false, SeqCst);
    }
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    let mut at = SLOTS.load(SeqCst);
    std::iter::from_fn(move || {
        // SAFETY: the list holds leaked boxes only, which live for ever and are reached by shared reference.
        let slot = unsafe { at.as_ref() }?;
        at = slot.next.load(SeqCst);
        Some(slot)
    })
}

fn vacant() -> Option<&'static Slot> {
    slots().find(|slot| slot.taken.compare_exchange(false, true, SeqCst, SeqCst).is_ok())
}

fn append() -> &'static Slot {
    let slot: &'static Slot = Box::leak(Box::new(Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page_bytes: AtomicUsize::new(0),
        epoch: AtomicU64::new(0),
        active: AtomicUsize::new(0),
        taken: AtomicBool::new(true),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let mut head = SLOTS.load(SeqCst);
    loop {
        slot.next.store(head, SeqCst);
        match SLOTS.compare_exchange(head, ptr::from_ref(slot).cast_mut(), SeqCst, SeqCst) {
            Ok(_) => return slot,
            Err(now) => head = now,
        }
    }
}

fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    match INSTALLED.get_or_init(install_once) {
        true => Ok(()),
        false => Err(io::Error::other("cannot install a SIGBUS handler")),
    }
}

/// True: it is installed.
fn install_once() -> bool {
    let mut previous = MaybeUninit::uninit();
    // SAFETY: this only reads the current action.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call has succeeded and filled it in.
    PREVIOUS.get_or_init(|| unsafe { previous.assume_init() });
    // SAFETY: the struct is plain data for which zeros are valid, and the handler has the type that SA_SIGINFO asks for. PREVIOUS is
    // complete before it can run.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // No other handler on top of this one: the alternate stack has room for two frames, or one with AMX.
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) == 0
    }
}

/// Only atomics and mmap(2) here: it runs in the middle of a memcpy.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    if unsafe { (*info).si_code } <= 0 {
        // Sent by a process (sigaction(2)): nothing is at fault, and what it says of an address is none.
        return;
    }
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; for SIGBUS it has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: errno is this thread's own; it is put back as the interrupted code left it.
    let errno = unsafe { *libc::__errno_location() };
    let survived = slots().any(|slot| cover(slot, address));
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if !survived {
        pass_on(signal, info, context);
    }
}

/// If `address` is the slot's, puts a page of zeros there.
fn cover(slot: &Slot, address: usize) -> bool {
    let inside = || (slot.start.load(SeqCst)..slot.end.load(SeqCst)).contains(&address);
    if !inside() {
        return false;
    }
    slot.active.fetch_add(1, SeqCst);
    // Always a new odd number, so that a mending under way fails.
    let _ = slot
        .epoch
        .fetch_update(SeqCst, SeqCst, |epoch| Some((epoch + 1) | 1));
    let page_bytes = slot.page_bytes.load(SeqCst);
    let page = address - address % page_bytes;
    // SAFETY: the page lies inside a mapping that the interrupted code holds alive, and replacing it with
    // anonymous memory of the same size is what Mapping's users are prepared for (they compare epochs).
    let at = unsafe {
        libc::mmap(
            page as *mut c_void,
            page_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    slot.active.fetch_sub(1, SeqCst);
    at != libc::MAP_FAILED
}

/// Not ours: as if we were not there.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // It was there before this handler was.
    let Some(previous) = PREVIOUS.get() else { return };
    // SAFETY: the function pointer is what the process had registered, called by the convention that its flags name. Without one
    // the default action is put back, and returning repeats the fault, which then ends the process as it should.
    unsafe {
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::signal(signal, libc::SIG_DFL);
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let call: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(handler);
                call(signal, info, context);
            }
            handler => {
                let call: extern "C" fn(c_int) = std::mem::transmute(handler);
                call(signal);
            }
        }
    }
}
