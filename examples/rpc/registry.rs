//! A registry of services. A plugin tells it the addresses and routes of its peer: `post_reg` gets each route, and `post_listen`
//! each address, once it can be called. A client then asks the registry who serves a route.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use epicycle::rpc::wire::Kind;
use epicycle::rpc::{Hooks, Peer, Plugin, RouteInfo, Router};
use epicycle::{Addr, Error};
use serde::{Deserialize, Serialize};

use crate::Outcome;

#[derive(Serialize, Deserialize)]
struct Service {
    addr: String,
    calls: Vec<String>,
}

/// The plugin of a peer that wants to be found.
struct Register {
    registry: String,
    client: Peer,
    calls: Mutex<Vec<String>>,
}

impl Plugin for Register {
    fn name(&self) -> &str {
        "register"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_REG | Hooks::POST_LISTEN
    }

    fn post_reg(&self, route: &RouteInfo) -> Result<(), Error> {
        if route.kind == Kind::Call {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls.push(route.path.to_string());
        }
        Ok(())
    }

    fn post_listen(&self, addr: &Addr) -> Result<(), Error> {
        let service = Service {
            addr: addr.to_string(),
            calls: self
                .calls
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        };
        let told = self
            .client
            .dial(&self.registry)
            .and_then(|session| session.call::<_, ()>("/registry/add", &service).wait());
        told.map_err(|status| Error::Option {
            name: "registry",
            problem: format!("{} does not take the service: {status}", self.registry),
        })
    }
}

/// The registry: a peer with a table of addresses by route.
fn registry() -> Result<Peer, Error> {
    let table: Arc<Mutex<BTreeMap<String, Vec<String>>>> = Arc::default();
    let mut routes = Router::new();
    let services = table.clone();
    routes.call("/registry/add", move |_ctx, service: Service| {
        let mut services = services.lock().unwrap_or_else(PoisonError::into_inner);
        for call in service.calls {
            services.entry(call).or_default().push(service.addr.clone());
        }
        Ok(())
    });
    routes.call("/registry/find", move |_ctx, path: String| {
        let services = table.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(services.get(&path).cloned().unwrap_or_default())
    });
    Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .reactors(1)
        .start()
}

pub(crate) fn run() -> Outcome {
    let registry = registry()?;
    let at = registry.local_addrs()[0].to_string();
    let client = Peer::builder().reactors(1).start()?;

    let mut services = Vec::new();
    for name in ["first", "second"] {
        let mut routes = Router::new();
        routes.call("/math/add", move |_ctx, numbers: Vec<i64>| {
            Ok(format!("{} says {name}", numbers.iter().sum::<i64>()))
        });
        let register = Register {
            registry: at.clone(),
            client: client.clone(),
            calls: Mutex::default(),
        };
        let service = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes);
        services.push(service.plugin(register).reactors(1).start()?);
    }

    let session = client.dial(&at)?;
    let found: Vec<String> = session.call("/registry/find", "/math/add").wait()?;
    println!("{} peers serve /math/add", found.len());
    for addr in found {
        let answer: String = client.dial(addr)?.call("/math/add", &[1, 2, 3]).wait()?;
        println!("{answer}");
    }
    Ok(())
}
