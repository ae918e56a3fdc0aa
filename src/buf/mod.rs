//! Buffers: what has arrived and is not yet a frame, and what is written and not yet sent.

pub(crate) mod inbox;
pub(crate) mod order;
pub(crate) mod outbox;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod ring;
