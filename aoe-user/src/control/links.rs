//! Tells when the host's network interfaces change, over rtnetlink.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::StreamExt;
use rtnetlink::MulticastGroup;
use tracing::{error, warn};

/// Between two tries to get a netlink socket.
const REOPEN_AGAIN: Duration = Duration::from_secs(1);

/// A connection to rtnetlink.
pub(super) struct Links {
    events: Box<dyn futures_util::Stream<Item = ()> + Unpin + Send>,
    /// Drives the connection; over where the connection is.
    connection: tokio::task::JoinHandle<()>,
    /// When to connect again.
    reopen_at: Option<Instant>,
}

impl Links {
    /// Connects and subscribes to changes. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub(super) fn open() -> Result<Links> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot open a netlink socket to watch the interfaces")?;
        Ok(Links {
            events: Box::new(messages.map(|_| ())),
            connection: tokio::spawn(connection),
            reopen_at: None,
        })
    }

    /// Waits until some interface has changed. Which one is not told: list again and compare, so that nothing
    /// depends on seeing each event. A connection that ends is opened again, which counts as a change: some may have been missed.
    /// Can be dropped and called again at any time.
    pub(super) async fn changed(&mut self) {
        if self.reopen_at.is_none() {
            if self.events.next().await.is_some() {
                return;
            }
            error!("the connection that tells of changed interfaces has ended: opening another");
        }
        loop {
            let at = *self.reopen_at.get_or_insert_with(Instant::now);
            tokio::time::sleep_until(at.into()).await;
            match Links::open() {
                Ok(links) => {
                    *self = links;
                    return;
                }
                Err(error) => {
                    warn!("{error:#}; trying again");
                    self.reopen_at = Some(Instant::now() + REOPEN_AGAIN);
                }
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_is_opened_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut links = Links::open().unwrap();
            let first = links.connection.id();
            links.connection.abort();
            // Events that came before are changes, too.
            while links.connection.id() == first {
                let limit = Duration::from_secs(60);
                tokio::time::timeout(limit, links.changed()).await.unwrap();
            }
        });
    }
}
