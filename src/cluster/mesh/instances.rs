//! The instances that calls to a target can go to.

use super::target::Target;
use super::transporter::MeshAddress;
use crate::cluster::State;
use crate::cluster::registry::{Instance, ServiceEndpoint};

/// Returns the addresses of a target, in the order of their ids.
pub(super) fn addresses(instances: &[Instance], target: &Target, scheme: &str) -> Vec<MeshAddress> {
    let mut chosen: Vec<&Instance> = match target {
        Target::Address(address) => {
            let mut endpoints = instances.iter().filter_map(endpoint);
            let known = endpoints.find(|endpoint| endpoint.address() == address);
            return single(address, known.is_some_and(|known| known.is_secure()));
        }
        Target::SecureAddress(address) => return single(address, true),
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
    let found = chosen.into_iter().filter_map(|instance| {
        let endpoint = endpoint(instance)?;
        (endpoint.scheme() == scheme).then(|| MeshAddress {
            address: endpoint.address().to_owned(),
            secure: endpoint.is_secure(),
            weight: instance.weight.max(1),
        })
    });
    found.collect()
}

fn endpoint(instance: &Instance) -> Option<ServiceEndpoint> {
    instance.endpoint.parse().ok()
}

fn single(address: &str, secure: bool) -> Vec<MeshAddress> {
    vec![MeshAddress {
        address: address.to_owned(),
        secure,
        weight: 1,
    }]
}
