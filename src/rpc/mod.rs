//! RPC between peers, wire-compatible with Teleport v4.
//!
//! For now this module consists of the [`wire`] formats: messages, protocols, body codecs and filters, without a
//! connection. Peers, sessions and routes will be built on top of it.
//!
//! ```
//! use epicycle::rpc::wire::{Codec, Codecs, Message};
//!
//! let mut call = Message::call("/math/add?author=x");
//! call.marshal(&Codecs::standard(), Codec::JSON, &[1, 2, 3])?;
//! assert_eq!(*call.body, *b"[1,2,3]");
//! # Ok::<(), epicycle::rpc::wire::BodyError>(())
//! ```

pub mod wire;
