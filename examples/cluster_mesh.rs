//! Stateless services of a cluster: three meshes in one process have a service, and a client calls it by its name. Amid the calls
//! one mesh stops and another one starts.

mod util;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use epicycle::cluster::mesh::Mesh;
use epicycle::cluster::{Cluster, Error};
use epicycle::rpc::Status;

/// Services that are called by name
#[derive(Parser)]
struct Flags {
    /// The number of calls
    #[arg(long, value_name = "N", default_value_t = 3000)]
    calls: u32,
}

fn mesh(cluster: &Cluster, id: &'static str) -> Result<Mesh, Error> {
    let mesh = cluster.mesh().id(id).peer(|peer| peer.reactors(1));
    let mesh = mesh.service("wallet", move |routes| {
        routes.call("pay", move |_ctx, (balance, price): (u32, u32)| {
            let left = balance.checked_sub(price);
            let left = left.ok_or_else(|| Status::new(1001, "not enough money"))?;
            Ok((id.to_owned(), left))
        });
    });
    mesh.start()
}

fn run(calls: u32) -> Result<(), Error> {
    let cluster = Cluster::embedded();
    let mut first = Some(mesh(&cluster, "mesh-1")?);
    let mut others = vec![mesh(&cluster, "mesh-2")?, mesh(&cluster, "mesh-3")?];
    let client = cluster.mesh_client().start()?;

    let mut answers = BTreeMap::new();
    for call in 0..calls {
        if call == calls / 2 {
            println!("mesh-1 stops, and mesh-4 starts");
            drop(first.take());
            others.push(mesh(&cluster, "mesh-4")?);
        }
        let (id, left): (String, u32) = client.call("/wallet/pay", &(100, 30)).wait()?;
        assert_eq!(left, 70);
        *answers.entry(id).or_insert(0) += 1;
    }
    for (id, count) in &answers {
        println!("{id} has answered {count} calls");
    }
    let too_much = client.call::<_, (String, u32)>("/wallet/pay", &(100, 130));
    if let Err(error) = too_much.wait() {
        println!("the last call fails: {error}");
    }
    let answered: u32 = answers.values().sum();
    println!("cluster_mesh ends: {answered} of {calls} calls answered");
    Ok(())
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    match run(flags.calls) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => util::fail("cluster_mesh", error),
    }
}
