use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::agents::{Agent, Agents, registry_of_agents};
use super::faulty::Faulty;
use super::{Instance, ServiceEndpoint};
use crate::cluster::Error;
use crate::cluster::backends::Nacos;
use crate::cluster::ending::Ending;

/// A registry on Nacos, in the format of due: an ephemeral instance of the service with this name, with the record in its metadata.
/// Clones share it.
///
/// A thread of the registry sends a beat every 5 seconds for each record of this process. Nacos no longer lists an instance without a
/// beat for 15 seconds, and forgets it after 30. If it has forgotten one although the process lives, it is registered again. Nacos
/// tells instances apart by their address. A watch asks for the list as often as Nacos says, mostly every 3 to 10 seconds, on a thread
/// of its own.
#[derive(Clone)]
pub struct NacosRegistry(Agents<Services>);

struct Services {
    nacos: Nacos,
    group: String,
    cluster: String,
    faulty: Faulty,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    hosts: Vec<Host>,
    /// The milliseconds for which the list may be used.
    #[serde(default)]
    cache_millis: u64,
}

#[derive(Deserialize)]
struct Host {
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default = "yes")]
    healthy: bool,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Beaten {
    #[serde(default)]
    code: u32,
}

/// The code by which Nacos tells that it knows no such instance.
const UNKNOWN: u32 = 20404;
/// The bounds of the time between two lists.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

impl NacosRegistry {
    /// Returns a registry in the group `DEFAULT_GROUP` and the cluster `DEFAULT`, as due does.
    pub fn new(nacos: &Nacos) -> Self {
        Self::with(nacos, "DEFAULT_GROUP", "DEFAULT")
    }

    /// Returns a registry in a group and a cluster.
    pub fn with(nacos: &Nacos, group: &str, cluster: &str) -> Self {
        Self(Agents::new(Services {
            nacos: nacos.clone(),
            group: group.to_owned(),
            cluster: cluster.to_owned(),
            faulty: Faulty::default(),
        }))
    }
}

registry_of_agents!(NacosRegistry, "nacos", nacos);

impl Services {
    /// Makes a call that concerns an instance.
    fn call(
        &self,
        method: &str,
        path: &str,
        instance: &Instance,
        more: &[(&str, &str)],
    ) -> Result<Option<Vec<u8>>, Error> {
        let endpoint: ServiceEndpoint = instance.endpoint.parse()?;
        let (host, port) = endpoint.host_and_port();
        let port = port.to_string();
        let service = format!("{}@@{}", self.group, instance.name);
        let mut params = vec![
            ("serviceName", &*service),
            ("groupName", &self.group),
            ("clusterName", &self.cluster),
            ("namespaceId", self.nacos.namespace()),
            ("ip", host),
            ("port", &port),
            ("ephemeral", "true"),
        ];
        params.extend_from_slice(more);
        self.nacos.call(method, path, &params)
    }
}

impl Agent for Services {
    /// The time for which the last list may be used.
    type Position = Duration;

    const BACKEND: &'static str = "nacos";

    fn put(&self, instance: &Instance) -> Result<(), Error> {
        let metadata = to_json(&to_metadata(instance)?)?;
        let weight = instance.weight.max(1).to_string();
        let more = [
            ("weight", &*weight),
            ("enabled", "true"),
            ("healthy", "true"),
            ("metadata", &metadata),
        ];
        match self.call("POST", "/v1/ns/instance", instance, &more)? {
            Some(answer) if answer.trim_ascii() == b"ok" => Ok(()),
            answer => {
                let answer = answer.unwrap_or_default();
                let answer = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
                Err(self.nacos.error(format!("it answers {answer:?}")))
            }
        }
    }

    fn beat(&self, instance: &Instance) -> Result<bool, Error> {
        let beaten = self.call("PUT", "/v1/ns/instance/beat", instance, &[])?;
        // Versions before 1.3 answer nothing more.
        let code = beaten.as_deref().map(serde_json::from_slice::<Beaten>);
        Ok(match code {
            None => false,
            Some(Ok(beaten)) => beaten.code != UNKNOWN,
            Some(Err(_)) => true,
        })
    }

    fn remove(&self, instance: &Instance) -> Result<(), Error> {
        self.call("DELETE", "/v1/ns/instance", instance, &[])
            .map(drop)
    }

    fn poll(
        &self,
        name: &str,
        position: &mut Duration,
        ending: &Ending,
    ) -> Result<Vec<Instance>, Error> {
        ending.wait(*position);
        let service = format!("{}@@{name}", self.group);
        let params = [
            ("serviceName", &*service),
            ("groupName", &self.group),
            ("clusters", &self.cluster),
            ("namespaceId", self.nacos.namespace()),
            ("healthyOnly", "true"),
        ];
        let path = "/v1/ns/instance/list";
        let answer = self.nacos.call("GET", path, &params)?;
        let listed = match answer {
            // Nobody has registered there yet.
            None => Listed {
                hosts: Vec::new(),
                cache_millis: 0,
            },
            Some(answer) => serde_json::from_slice(&answer).map_err(|error| {
                self.nacos
                    .error(format!("{path} answers strangely: {error}"))
            })?,
        };
        let cache = match listed.cache_millis {
            0 => Duration::from_secs(3),
            millis => Duration::from_millis(millis),
        };
        *position = cache.clamp(SHORTEST, LONGEST);
        let hosts = listed.hosts.into_iter();
        let usable = hosts.filter(|host| host.enabled && host.healthy);
        let mut list: Vec<_> = usable
            .filter_map(|host| from_metadata(name, &host.metadata, &self.faulty))
            .collect();
        list.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(list)
    }
}

fn to_metadata(instance: &Instance) -> Result<BTreeMap<&'static str, String>, Error> {
    let mut metadata = BTreeMap::from([
        ("id", instance.id.clone()),
        ("name", instance.name.clone()),
        ("kind", instance.kind.to_string()),
        ("alias", instance.alias.clone()),
        ("state", instance.state.to_string()),
        ("endpoint", instance.endpoint.clone()),
        ("weight", instance.weight.max(1).to_string()),
    ]);
    if !instance.routes.is_empty() {
        metadata.insert("routes", to_json(&instance.routes)?);
    }
    if !instance.events.is_empty() {
        metadata.insert("events", to_json(&instance.events)?);
    }
    if !instance.services.is_empty() {
        metadata.insert("services", to_json(&instance.services)?);
    }
    if !instance.metadata.is_empty() {
        metadata.insert("metadata", to_json(&instance.metadata)?);
    }
    Ok(metadata)
}

fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Codec(Arc::new(error)))
}

/// Reads the record of an instance. Others may have services of the same name.
fn from_metadata(
    name: &str,
    metadata: &BTreeMap<String, String>,
    faulty: &Faulty,
) -> Option<Instance> {
    let read = || {
        let kind = metadata.get("kind")?.parse().ok()?;
        let text = |field: &str| metadata.get(field).cloned().unwrap_or_default();
        let mut instance = Instance::new(kind, metadata.get("id")?, text("endpoint"));
        instance.name = name.to_owned();
        instance.alias = text("alias");
        instance.state = metadata.get("state")?.parse().ok()?;
        instance.weight = text("weight").parse().unwrap_or(0);
        instance.routes = json(metadata, "routes")?;
        instance.events = json(metadata, "events")?;
        instance.services = json(metadata, "services")?;
        instance.metadata = json(metadata, "metadata")?;
        instance.check().ok()?;
        Some(instance)
    };
    let instance = read();
    if instance.is_none() {
        let problem = format_args!("Nacos: {metadata:?} is no record of an instance");
        faulty.warn(metadata, problem);
    }
    instance
}

/// Reads a field. One that is missing is empty.
fn json<T: DeserializeOwned + Default>(
    metadata: &BTreeMap<String, String>,
    field: &str,
) -> Option<T> {
    match metadata.get(field) {
        Some(json) if !json.is_empty() => serde_json::from_str::<Option<T>>(json)
            .ok()
            .map(Option::unwrap_or_default),
        _ => Some(T::default()),
    }
}
