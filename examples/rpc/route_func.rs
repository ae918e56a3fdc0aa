//! Functions and methods as handlers.

use std::sync::atomic::{AtomicI64, Ordering};

use epicycle::rpc::wire::uri_path;
use epicycle::rpc::{CallCtx, Peer, PushCtx, Router, Status, controller};

use crate::Outcome;

fn add(_ctx: &mut CallCtx<'_>, numbers: Vec<i64>) -> Result<i64, Status> {
    Ok(numbers.iter().sum())
}

fn note(ctx: &PushCtx<'_>, text: String) -> Result<(), Status> {
    println!("{} notes: {text}", ctx.session().id());
    Ok(())
}

/// Its methods share a value. All reactors use it at once.
#[derive(Default)]
struct SumTool(AtomicI64);

impl SumTool {
    fn add(&self, _ctx: &mut CallCtx<'_>, number: i64) -> Result<i64, Status> {
        Ok(self.0.fetch_add(number, Ordering::Relaxed) + number)
    }

    fn reset(&self, _ctx: &mut CallCtx<'_>, (): ()) -> Result<i64, Status> {
        Ok(self.0.swap(0, Ordering::Relaxed))
    }
}

pub(crate) fn run() -> Outcome {
    let mut routes = Router::new();
    routes.call("add", add);
    // The path that Teleport gives a Go function of this name.
    routes.call(&uri_path("AddAll"), add);
    routes.push("note", note);
    controller!(routes, SumTool::default() => SumTool { add, "ResetIt" = reset });
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .start()?;
    for route in server.routes() {
        println!("{} {}", route.kind, route.path);
    }

    let client = Peer::builder().reactors(1).start()?;
    let session = client.dial(&server.local_addrs()[0])?;
    session.push("/note", "hello")?;
    for (path, numbers) in [("/add", [1, 2]), ("/add_all", [3, 4])] {
        let sum: i64 = session.call(path, &numbers).wait()?;
        println!("{path}: {sum}");
    }
    let sums: (i64, i64) = (
        session.call("/sum_tool/add", &5).wait()?,
        session.call("/sum_tool/add", &6).wait()?,
    );
    let reset: i64 = session.call("/sum_tool/reset_it", &()).wait()?;
    println!("sums of a value: {sums:?}, at the end {reset}");
    Ok(())
}
