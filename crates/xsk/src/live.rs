//! Which UMEMs exist: a frame dropped while its socket lives is a leak, one dropped after it is not. Debug builds only.

#[cfg(debug_assertions)]
static LIVE: parking_lot::Mutex<std::collections::BTreeSet<u32>> =
    parking_lot::Mutex::new(std::collections::BTreeSet::new());

pub(super) fn add(_id: u32) {
    #[cfg(debug_assertions)]
    LIVE.lock().insert(_id);
}

pub(super) fn remove(_id: u32) {
    #[cfg(debug_assertions)]
    LIVE.lock().remove(&_id);
}

#[cfg(debug_assertions)]
pub(super) fn contains(id: u32) -> bool {
    LIVE.lock().contains(&id)
}
