//! Listening on a port for other targets that serve what it serves.

use std::sync::Arc;

use super::other_targets::watch::TargetWatch;
use super::port_view::PortView;
use super::port_wishes::PortShared;

/// Listens for those that serve what the view has. The port is wished told what is to be left to them.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn listen(
    interface: &str,
    view: &PortView,
    shared: &Arc<PortShared>,
) -> std::io::Result<TargetWatch> {
    let shared = Arc::downgrade(shared);
    TargetWatch::start(interface, view.probed(), view.own.clone(), move |other| {
        if let Some(shared) = shared.upgrade() {
            shared.wish(|wishes| wishes.lost.push(other));
        }
    })
}
