//! What is to be remembered about a request until it is answered, a bit each.

/// Of the request: it was a HEAD.
pub(super) const HEAD: u16 = 1 << 0;
/// Of the request: it was a CONNECT.
pub(super) const CONNECT: u16 = 1 << 1;
/// Of the request: its version has no chunks.
pub(super) const HTTP10: u16 = 1 << 2;
/// The connection closes once this is answered.
pub(super) const CLOSE: u16 = 1 << 3;
/// The client waits for a `100 Continue`.
pub(super) const EXPECTS: u16 = 1 << 4;
/// The request's body is not all there.
pub(super) const RECEIVING: u16 = 1 << 5;
/// Nothing more is to be sent.
pub(super) const FINISHED: u16 = 1 << 6;
