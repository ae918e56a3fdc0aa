//! Buffers: for input that is not yet a complete frame, and for output that is not yet sent.

pub(crate) mod inbox;
pub(crate) mod order;
pub(crate) mod outbox;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod ring;
