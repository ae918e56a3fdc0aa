use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::agents::{Agent, Agents, registry_of_agents};
use super::faulty::Faulty;
use super::{Instance, RouteSpec, ServiceEndpoint};
use crate::cluster::Error;
use crate::cluster::backends::{Consul, escape};
use crate::cluster::ending::Ending;

/// A registry on Consul, in the format of due: a service `KIND-ID` of the name, with the record in its metadata. Clones share it.
///
/// Consul asks the port of the links for a sign of life every 10 seconds, and wants one from this side as often, which a thread of the
/// registry gives. A service that has none is no longer listed, and 30 seconds later it is gone. If Consul has forgotten a service
/// although the process lives, it is registered again. Each watch has a thread.
#[derive(Clone)]
pub struct ConsulRegistry(Agents<Services>);

struct Services {
    consul: Consul,
    faulty: Faulty,
}

/// A service as the agent takes it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Registration<'a> {
    #[serde(rename = "ID")]
    id: String,
    name: &'a str,
    address: &'a str,
    port: u16,
    tagged_addresses: BTreeMap<&'a str, Address<'a>>,
    meta: BTreeMap<String, String>,
    checks: [Check; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Address<'a> {
    address: &'a str,
    port: u16,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID", skip_serializing_if = "Option::is_none")]
    check_id: Option<String>,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<&'static str>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<&'static str>,
    status: &'static str,
    deregister_critical_service_after: &'static str,
}

/// A service as its agent has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Registered {
    #[serde(default)]
    meta: BTreeMap<String, String>,
}

/// A service as it is listed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    service: String,
    #[serde(default)]
    meta: BTreeMap<String, String>,
}

/// The maximum length of a value of the metadata.
const MAX_VALUE: usize = 512;
/// The bits of a route.
const INTERNAL: u8 = 1;
const STATEFUL: u8 = 2;
const AUTHORIZED: u8 = 4;

impl ConsulRegistry {
    /// Returns a registry.
    pub fn new(consul: &Consul) -> Self {
        Self(Agents::new(Services {
            consul: consul.clone(),
            faulty: Faulty::default(),
        }))
    }
}

registry_of_agents!(ConsulRegistry, "consul", consul);

impl Agent for Services {
    /// The index of the last list.
    type Position = u64;

    const BACKEND: &'static str = "consul";

    fn put(&self, instance: &Instance) -> Result<(), Error> {
        let endpoint: ServiceEndpoint = instance.endpoint.parse()?;
        let address = endpoint.address();
        let (host, port) = endpoint.host_and_port();
        let id = service_id(instance);
        let check = |check: Check| Check {
            // Otherwise the service would be listed only after the first check.
            status: "passing",
            deregister_critical_service_after: "30s",
            ..check
        };
        let registration = Registration {
            name: &instance.name,
            address: host,
            port,
            tagged_addresses: BTreeMap::from([(
                endpoint.scheme(),
                Address {
                    address: host,
                    port,
                },
            )]),
            meta: to_meta(instance)?,
            checks: [
                check(Check {
                    tcp: Some(address.to_owned()),
                    interval: Some("10s"),
                    timeout: Some("5s"),
                    ..Check::default()
                }),
                check(Check {
                    check_id: Some(format!("service:{id}")),
                    ttl: Some("10s"),
                    ..Check::default()
                }),
            ],
            id,
        };
        match self
            .consul
            .put("/v1/agent/service/register", &registration)?
        {
            true => Ok(()),
            false => Err(self.consul.error("it registers no services")),
        }
    }

    fn beat(&self, instance: &Instance) -> Result<bool, Error> {
        let id = escape(&format!("service:{}", service_id(instance)));
        (self.consul).put(&format!("/v1/agent/check/pass/{id}?note=passed"), &())
    }

    fn taken_by(&self, instance: &Instance) -> Result<Option<String>, Error> {
        let id = escape(&service_id(instance));
        let found = (self.consul).find::<Registered>(&format!("/v1/agent/service/{id}"))?;
        let endpoint = found.and_then(|mut found| found.meta.remove("endpoint"));
        Ok(endpoint.filter(|endpoint| *endpoint != instance.endpoint))
    }

    fn remove(&self, instance: &Instance) -> Result<(), Error> {
        let id = escape(&service_id(instance));
        let removed = (self.consul).put(&format!("/v1/agent/service/deregister/{id}"), &());
        removed.map(drop)
    }

    fn poll(
        &self,
        name: &str,
        position: &mut u64,
        ending: &Ending,
    ) -> Result<Vec<Instance>, Error> {
        let path = format!("/v1/health/service/{}?passing", escape(name));
        let listed = self.consul.get::<Vec<Listed>>(&path, *position, ending)?;
        *position = listed.index;
        let services = listed.value.unwrap_or_default().into_iter();
        let mut list: Vec<_> = services
            .filter_map(|listed| from_meta(&listed.service, &self.faulty))
            .collect();
        list.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(list)
    }
}

fn service_id(instance: &Instance) -> String {
    format!("{}-{}", instance.kind, instance.id)
}

fn to_meta(instance: &Instance) -> Result<BTreeMap<String, String>, Error> {
    let mut meta: BTreeMap<String, String> = [
        ("id", instance.id.clone()),
        ("kind", instance.kind.to_string()),
        ("alias", instance.alias.clone()),
        ("state", instance.state.to_string()),
        ("endpoint", instance.endpoint.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if instance.weight > 0 {
        meta.insert("weight".to_owned(), instance.weight.to_string());
    }
    let events: Vec<_> = instance.events.iter().map(ToString::to_string).collect();
    put_list(&mut meta, "events", &events)?;
    let services: Result<Vec<_>, _> = (instance.services.iter())
        .map(serde_json::to_string)
        .collect();
    let services = services.map_err(|error| Error::Codec(std::sync::Arc::new(error)))?;
    put_list(&mut meta, "services", &services)?;
    let routes = instance.routes.iter().map(|route| {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let bits = bit(route.internal, INTERNAL)
            | bit(route.stateful, STATEFUL)
            | bit(route.authorized, AUTHORIZED);
        format!("{}-{bits}", route.id)
    });
    for (n, chunk) in chunks(routes, MAX_VALUE).into_iter().enumerate() {
        meta.insert(format!("routes-{n}"), chunk);
    }
    for (key, value) in &instance.metadata {
        meta.insert(format!("_{key}"), value.clone());
    }
    for (key, value) in &meta {
        if value.len() > MAX_VALUE {
            let problem = format!("{key} of {} bytes, where Consul allows 512", value.len());
            return Err(Error::argument("metadata", problem));
        }
    }
    Ok(meta)
}

/// Puts a list as JSON. If it is too long for one value, several have a part each, which newer versions of due read.
fn put_list(
    meta: &mut BTreeMap<String, String>,
    field: &str,
    items: &[String],
) -> Result<(), Error> {
    if items.is_empty() {
        return Ok(());
    }
    let whole = format!("[{}]", items.join(","));
    if whole.len() <= MAX_VALUE {
        meta.insert(field.to_owned(), whole);
        return Ok(());
    }
    // The brackets need two.
    for (n, chunk) in chunks(items.iter().cloned(), MAX_VALUE - 2)
        .into_iter()
        .enumerate()
    {
        meta.insert(format!("{field}-{n}"), format!("[{chunk}]"));
    }
    Ok(())
}

/// Joins items by commas, as many as fit into `max` bytes each time.
fn chunks(items: impl Iterator<Item = String>, max: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for item in items {
        match all.last_mut() {
            Some(last) if last.len() + 1 + item.len() <= max => {
                last.push(',');
                last.push_str(&item);
            }
            _ => all.push(item),
        }
    }
    all
}

/// Reads the record of a service. Others may have services of the same name.
fn from_meta(service: &Service, faulty: &Faulty) -> Option<Instance> {
    let meta = &service.meta;
    let read = || {
        let kind = meta.get("kind")?.parse().ok()?;
        let mut instance = Instance::new(kind, meta.get("id")?, "");
        instance.name.clone_from(&service.service);
        instance.state = meta.get("state")?.parse().ok()?;
        if let Some(alias) = meta.get("alias") {
            instance.alias.clone_from(alias);
        }
        if let Some(endpoint) = meta.get("endpoint") {
            instance.endpoint.clone_from(endpoint);
        }
        let weight = meta.get("weight").and_then(|weight| weight.parse().ok());
        instance.weight = weight.unwrap_or(0);
        instance.events = list(meta, "events");
        instance.services = list(meta, "services");
        for chunk in parts(meta, "routes") {
            instance.routes.extend(chunk.split(',').filter_map(route));
        }
        for (key, value) in meta {
            if let Some(key) = key.strip_prefix('_') {
                instance.metadata.insert(key.to_owned(), value.clone());
            }
        }
        instance.check().ok()?;
        Some(instance)
    };
    let instance = read();
    if instance.is_none() {
        let problem = format_args!("Consul: {meta:?} is no record of an instance");
        faulty.warn(meta, problem);
    }
    instance
}

fn list<T: serde::de::DeserializeOwned>(meta: &BTreeMap<String, String>, field: &str) -> Vec<T> {
    let whole = meta.get(field).map(String::as_str);
    let all = parts(meta, field).chain(whole);
    all.filter_map(|json| serde_json::from_str::<Option<Vec<T>>>(json).ok()?)
        .flatten()
        .collect()
}

/// Returns the values of `FIELD-0`, `FIELD-1` and so on.
fn parts<'m>(meta: &'m BTreeMap<String, String>, field: &str) -> impl Iterator<Item = &'m str> {
    (0..).map_while(move |n| meta.get(&format!("{field}-{n}")).map(String::as_str))
}

/// Reads a route. The number may be negative, so the last dash is the one before the bits.
fn route(text: &str) -> Option<RouteSpec> {
    let (id, bits) = text.rsplit_once('-')?;
    let bits: u8 = bits.parse().ok()?;
    let mut route = RouteSpec::new(id.parse().ok()?);
    route.internal = bits & INTERNAL != 0;
    route.stateful = bits & STATEFUL != 0;
    route.authorized = bits & AUTHORIZED != 0;
    Some(route)
}
