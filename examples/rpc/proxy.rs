//! A proxy: what it has no route for goes on to one of two backends, by the path. The `seq`s tell the backends where a call
//! comes from.

use epicycle::rpc::plugins::proxy::Proxy;
use epicycle::rpc::{Peer, Router, Session, Status, code};

use crate::Outcome;

fn backend(name: &'static str) -> Result<Peer, epicycle::Error> {
    let mut routes = Router::new();
    routes.group(name, |routes| {
        routes.call("whoami", move |ctx, _: ()| {
            let seq = String::from_utf8_lossy(ctx.seq()).into_owned();
            let ip = ctx.real_ip().map(|ip| ip.to_string());
            Ok(format!(
                "{name}, for {} with seq {seq}",
                ip.unwrap_or_default()
            ))
        });
    });
    let listen = "tcp://127.0.0.1:0";
    Peer::builder()
        .listen(listen)
        .routes(routes)
        .reactors(1)
        .start()
}

pub(crate) fn run() -> Outcome {
    let backends = [backend("red")?, backend("blue")?];
    let to_backends = Peer::builder().reactors(1).start()?;
    let sessions: Result<Vec<Session>, Status> = (backends.iter())
        .map(|backend| to_backends.dial(&backend.local_addrs()[0]))
        .collect();
    let (red, blue) = (sessions.clone()?[0].clone(), sessions?[1].clone());

    let mut routes = Router::new();
    routes.call("own", |_ctx, _: ()| Ok("the proxy itself"));
    let proxy = Proxy::new(move |label| match &*label.uri {
        uri if uri.starts_with("/red/") => Ok(red.clone()),
        uri if uri.starts_with("/blue/") => Ok(blue.clone()),
        _ => Err(Status::new(code::NOT_FOUND, "Not Found")),
    });
    proxy.program("example").add_to(&mut routes);
    let proxy = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .start()?;

    let client = Peer::builder().reactors(1).start()?;
    let session = client.dial(&proxy.local_addrs()[0])?;
    for path in ["/own", "/red/whoami", "/blue/whoami", "/green/whoami"] {
        match session.call::<_, String>(path, &()).wait() {
            Ok(answer) => println!("{path}: {answer}"),
            Err(status) => println!("{path}: {status}"),
        }
    }
    // The backend goes, and its calls end.
    backends[0].shutdown();
    to_backends.sessions().iter().for_each(Session::abort);
    if let Err(status) = session.call::<_, String>("/red/whoami", &()).wait() {
        println!("without a backend: {status}");
    }
    Ok(())
}
