//! The instances that calls to a target can go to.

use super::target::Target;
use super::transporter::MeshAddress;
use crate::cluster::registry::{Instance, ServiceEndpoint};
use crate::cluster::{Error, State};

/// Returns the addresses of a target, in the order of their ids.
pub(super) fn addresses(instances: &[Instance], target: &Target, scheme: &str) -> Vec<MeshAddress> {
    let known = chosen(instances, target);
    if let Target::Address(address) | Target::SecureAddress(address) = target
        && known.is_empty()
    {
        return vec![MeshAddress {
            address: address.clone(),
            secure: matches!(target, Target::SecureAddress(_)),
            weight: 1,
        }];
    }
    let found = known.into_iter().filter_map(|instance| {
        let endpoint = endpoint(instance)?;
        (endpoint.scheme() == scheme).then(|| MeshAddress {
            address: endpoint.address().to_owned(),
            secure: endpoint.is_secure() || matches!(target, Target::SecureAddress(_)),
            weight: instance.weight.max(1),
        })
    });
    found.collect()
}

/// Returns the error of a target without an address for this protocol.
pub(super) fn none(instances: &[Instance], target: &Target, scheme: &str) -> Error {
    let mut endpoints = chosen(instances, target).into_iter().filter_map(endpoint);
    match endpoints.next() {
        None => Error::NotFoundEndpoint {
            wanted: target.to_string(),
        },
        Some(other) => {
            let problem = format!(
                "{target} speaks {}://, and this client {scheme}://; give the client that transporter",
                other.scheme()
            );
            Error::argument("transporter", problem)
        }
    }
}

/// Returns the registered instances of a target that take calls, in the order of their ids.
fn chosen<'i>(instances: &'i [Instance], target: &Target) -> Vec<&'i Instance> {
    let mut chosen: Vec<&Instance> = match target {
        Target::Address(address) | Target::SecureAddress(address) => {
            let is_there = |instance: &&Instance| {
                endpoint(instance).is_some_and(|endpoint| endpoint.address() == address)
            };
            instances.iter().find(is_there).into_iter().collect()
        }
        Target::Instance(id) => {
            let found = instances.iter().find(|instance| instance.id == *id);
            let found = found.filter(|instance| instance.state != State::Shut);
            found.into_iter().collect()
        }
        Target::Service(name) => {
            let in_state = |state: State| {
                let has_it = |instance: &&Instance| {
                    instance.state == state && instance.services.contains(name)
                };
                instances.iter().filter(has_it).collect::<Vec<_>>()
            };
            let working = in_state(State::Work);
            match working.is_empty() {
                true => in_state(State::Busy),
                false => working,
            }
        }
    };
    chosen.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    chosen
}

fn endpoint(instance: &Instance) -> Option<ServiceEndpoint> {
    instance.endpoint.parse().ok()
}
