//! The ground of the cluster layer: what is on the wire, compared with recordings of due v2.5.8 and with models.

#[path = "../util/mod.rs"]
mod util;

mod drpc;
mod drpc_properties;
mod feed;
mod packet;
mod packet_properties;
mod vectors;
