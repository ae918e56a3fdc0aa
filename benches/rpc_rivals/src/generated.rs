//! The code that `build.rs` generates.

#![allow(unsafe_code, warnings, clippy::all)]

/// The service of tonic.
pub mod protobuf {
    tonic::include_proto!("benchmark");
}

pub mod capnp {
    include!(concat!(env!("OUT_DIR"), "/benchmark_capnp.rs"));
}

mod volo {
    include!(concat!(env!("OUT_DIR"), "/volo_protobuf.rs"));
    include!(concat!(env!("OUT_DIR"), "/volo_thrift.rs"));
}

pub use self::volo::volo_protobuf::benchmark as volo_protobuf;
pub use self::volo::volo_thrift::benchmark as volo_thrift;
