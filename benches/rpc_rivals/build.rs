//! Generates the services from their schemas. Messages of prost are those of `rpc_bench`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .extern_path(
            ".benchmark.BenchmarkMessage",
            "::rpc_bench::message::BenchmarkMessage",
        )
        .compile_protos(&["schema/benchmark.proto"], &["schema"])?;
    capnpc::CompilerCommand::new()
        .src_prefix("schema")
        .file("schema/benchmark.capnp")
        .run()?;
    volo_build::Builder::protobuf()
        .filename("volo_protobuf.rs".into())
        .add_service("schema/benchmark.proto")
        .include_dirs(vec!["schema".into()])
        .write()?;
    volo_build::Builder::thrift()
        .filename("volo_thrift.rs".into())
        .add_service("schema/benchmark.thrift")
        .write()?;
    Ok(())
}
