//! The ground of the cluster layer: what is on the wire, compared with recordings of due v2.5.8 and with models.

#[path = "../util/mod.rs"]
mod util;

mod actor;
mod admin;
mod client;
mod codec;
mod config;
mod container;
#[cfg(feature = "crypto")]
mod crypto;
mod dispatch;
mod drpc;
mod drpc_properties;
mod fan_out;
mod feed;
mod gate;
mod gate_clients;
mod gate_drain;
mod gate_faults;
mod gate_moves;
mod gate_nodes;
mod gate_replacing;
mod gate_replay;
#[cfg(feature = "tls")]
mod gate_tls;
mod gate_users;
#[cfg(feature = "cluster-http")]
mod http;
#[cfg(feature = "cluster-http")]
mod http_limits;
#[cfg(feature = "kcp")]
mod kcp;
#[cfg(feature = "kcp")]
mod kcp_fec;
mod leftovers;
mod link;
mod locator;
#[cfg(feature = "logfile")]
mod logging;
mod mesh;
mod mesh_alike;
mod metrics;
mod node;
mod node_drain;
mod node_faults;
mod node_locating;
mod node_reactors;
mod node_replay;
mod node_verbs;
mod packet;
mod packet_properties;
#[cfg(feature = "cli")]
mod program;
mod registry;
mod resume;
mod resume_faults;
mod resume_late;
mod rig;
mod room;
mod shared;
mod vectors;
