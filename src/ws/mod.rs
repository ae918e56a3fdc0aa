//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692).

mod close;
mod deflate;
mod extension;
mod failure;
mod header;
mod key;
mod mask;
mod text;

pub use self::close::{Close, CloseCode};
pub use self::deflate::DeflateOptions;
