//! Servers for many clients that stay connected, as online games have them, wire-compatible with the Go framework due v2.5.8.
//!
//! Clients hold connections to **gates**. A gate passes their packets on to **nodes**, where the application runs. Nodes push
//! back through the gates. This module has the formats of both ways; the gates and nodes that speak them come next.
//!
//! - [`packet`]: what clients and gates say to each other.
//! - [`drpc`]: what gates and nodes say to each other.
//!
//! ```
//! use epicycle::cluster::packet::{Packet, PacketOptions};
//!
//! let options = PacketOptions::builder().route_bytes(1).build()?;
//! let packet = options.encode(&Packet { route: 1, seq: 2, data: b"hi" })?;
//! assert_eq!(packet.as_bytes(), b"\0\0\0\x06\0\x01\0\x02hi");
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```

pub mod drpc;
mod error;
pub mod packet;
mod roles;

pub use self::error::Error;
pub use self::roles::{Event, Kind, State};
