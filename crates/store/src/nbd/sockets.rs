//! The sockets of a store, connected or on their way, so that its end is the end of all of them.
//!
//! A socket that stays open has a client as far as anybody can tell, so that the next store would not wait for what the server
//! still does with its writes.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::stream::Stream;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    closed: bool,
    sockets: Vec<(Weak<Stream>, Use)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Whoever makes the connection waits for the server.
    OnItsWay,
    /// It takes requests.
    Ready,
}

impl Sockets {
    /// A socket that ends with the store from here on.
    ///
    /// # Errors
    /// When the store has ended.
    pub(super) fn enter(&self, stream: Stream) -> io::Result<Arc<Stream>> {
        let stream = Arc::new(stream);
        let mut all = self.0.lock();
        if all.closed {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, CLOSED));
        }
        all.sockets.retain(|(stream, _)| stream.strong_count() > 0);
        all.sockets.push((Arc::downgrade(&stream), Use::OnItsWay));
        Ok(stream)
    }

    /// A connection takes requests from here on.
    pub(super) fn ready(&self, ready: &Arc<Stream>) {
        let mut all = self.0.lock();
        let own = all
            .sockets
            .iter_mut()
            .find(|(stream, _)| stream.as_ptr() == Arc::as_ptr(ready));
        if let Some((_, how)) = own {
            *how = Use::Ready;
        }
    }

    /// Whether the store has ended.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.0.lock().closed {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, CLOSED)),
            false => Ok(()),
        }
    }

    /// The store ends: nobody gets another socket, and who waits for a server to be connected waits no more. Connections that take
    /// requests say goodbye before they end.
    pub(super) fn close(&self) {
        let mut all = self.0.lock();
        all.closed = true;
        let on_its_way = |(stream, how): &(Weak<Stream>, Use)| {
            let stream = stream.upgrade()?;
            (*how == Use::OnItsWay).then_some(stream)
        };
        all.sockets
            .iter()
            .filter_map(on_its_way)
            .for_each(|stream| stream.shut_down());
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().sockets.is_empty()
    }

    /// Ends every connection.
    pub(super) fn end(&self) {
        let all = self.0.lock();
        let left = all.sockets.iter().filter_map(|(stream, _)| stream.upgrade());
        left.for_each(|stream| stream.shut_down());
    }
}

const CLOSED: &str = "the export is being closed";
