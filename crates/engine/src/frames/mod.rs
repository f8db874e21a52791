//! Frames as the engine sees them: where they come from, how a request is read out of one, how a reply is built.

pub mod link;
pub(crate) mod port;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod rx_frame;
pub(crate) mod scatter;
