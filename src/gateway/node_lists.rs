//! The nodes of pools, from three origins: the configuration, a source, and operators.
//!
//! The list of a source takes the place of that of the configuration. What operators change is laid over the list, node by
//! node, whichever it is. It lasts until a configuration is taken over in which the pool has other nodes than in the last
//! one.

use std::collections::{BTreeMap, HashMap};

use super::error::GatewayError;
use super::settings::{NodeChange, NodeSettings, Problem, Settings};

/// The most changes of operators that a pool keeps.
const MAX_CHANGES: usize = 4096;

/// The nodes of all pools, by their origins.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeLists {
    configured: BTreeMap<String, Vec<NodeSettings>>,
    discovered: HashMap<String, Vec<NodeSettings>>,
    changed: HashMap<String, BTreeMap<String, Changed>>,
}

/// The change of a node by an operator.
#[derive(Clone, Debug)]
enum Changed {
    /// It has these settings, whether or not the list has it.
    Set(NodeSettings),
    /// It has these settings as long as the list has it.
    Differs(NodeChange),
    Removed,
}

impl NodeLists {
    /// Takes over a configuration, and gives its pools the nodes that they have now.
    ///
    /// The list of a source that the configuration had, and has no more, goes with it.
    pub(super) fn configure(&mut self, old: &Settings, settings: &mut Settings) {
        let pools = &settings.pools;
        self.discovered
            .retain(|name, _| match (old.pools.get(name), pools.get(name)) {
                (Some(old), Some(new)) => old.discover.is_none() || new.discover.is_some(),
                (_, new) => new.is_some(),
            });
        let before = std::mem::take(&mut self.configured);
        self.configured = pools
            .iter()
            .map(|(name, pool)| (name.clone(), pool.nodes.clone()))
            .collect();
        let configured = &self.configured;
        self.changed.retain(|pool, _| {
            configured.contains_key(pool) && before.get(pool) == configured.get(pool)
        });
        self.apply(settings);
    }

    /// Takes over the list of a source.
    pub(super) fn discover(
        &mut self,
        pool: &str,
        nodes: Vec<NodeSettings>,
        settings: &mut Settings,
    ) {
        self.discovered.insert(pool.to_owned(), nodes);
        self.apply(settings);
    }

    /// Returns true if the nodes of a pool are not those of the configuration.
    pub(super) fn differs(&self, pool: &str) -> bool {
        self.discovered.contains_key(pool) || self.changed.contains_key(pool)
    }

    /// Adds a node, or replaces the settings of one. Returns true if it is new.
    pub(super) fn set(
        &mut self,
        pool: &str,
        node: NodeSettings,
        settings: &mut Settings,
    ) -> Result<bool, GatewayError> {
        let is_new = !self.nodes(pool)?.iter().any(|known| known.to == node.to);
        self.change(pool, &node.to.clone(), Changed::Set(node))?;
        self.apply(settings);
        Ok(is_new)
    }

    /// Changes some settings of a node.
    pub(super) fn alter(
        &mut self,
        pool: &str,
        address: &str,
        change: &NodeChange,
        settings: &mut Settings,
    ) -> Result<NodeSettings, GatewayError> {
        let mut node = self.node(pool, address)?;
        change.apply(&mut node);
        let known = self.changed.get(pool).and_then(|known| known.get(&node.to));
        let changed = match known {
            Some(Changed::Set(_)) => Changed::Set(node.clone()),
            Some(Changed::Differs(before)) => Changed::Differs(before.clone().and(change)),
            Some(Changed::Removed) | None => Changed::Differs(change.clone()),
        };
        self.change(pool, &node.to, changed)?;
        self.apply(settings);
        Ok(node)
    }

    /// Removes a node. Returns its address.
    pub(super) fn remove(
        &mut self,
        pool: &str,
        address: &str,
        settings: &mut Settings,
    ) -> Result<String, GatewayError> {
        let node = self.node(pool, address)?;
        if self.nodes(pool)?.len() == 1 {
            let problem =
                "it is the pool's last node; put it down instead, or add another one first";
            return Err(GatewayError::Conflict(at(pool, problem)));
        }
        let base = self.discovered.get(pool).or(self.configured.get(pool));
        if base.is_some_and(|base| base.iter().any(|known| known.to == node.to)) {
            self.change(pool, &node.to, Changed::Removed)?;
        } else if let Some(changed) = self.changed.get_mut(pool) {
            changed.remove(&node.to);
        }
        self.apply(settings);
        Ok(node.to)
    }

    fn change(&mut self, pool: &str, address: &str, changed: Changed) -> Result<(), GatewayError> {
        let changes = self.changed.entry(pool.to_owned()).or_default();
        if changes.len() >= MAX_CHANGES && !changes.contains_key(address) {
            let problem = "too many of its nodes are changed by hand; change its list instead";
            return Err(GatewayError::Conflict(at(pool, problem)));
        }
        changes.insert(address.to_owned(), changed);
        Ok(())
    }

    /// Returns a node by its address, or by its address without the scheme.
    fn node(&self, pool: &str, address: &str) -> Result<NodeSettings, GatewayError> {
        let nodes = self.nodes(pool)?;
        let exact = nodes.iter().find(|node| node.to == address);
        let short = |node: &&NodeSettings| {
            let rest = node.to.split_once("://").map(|(_, rest)| rest);
            rest == Some(address)
        };
        match exact.or_else(|| nodes.iter().find(short)) {
            Some(node) => Ok(node.clone()),
            None => Err(GatewayError::NotFound(at(
                pool,
                &format!("there is no node {address:?}"),
            ))),
        }
    }

    /// Returns the nodes of a pool.
    fn nodes(&self, pool: &str) -> Result<Vec<NodeSettings>, GatewayError> {
        let base = self.configured.get(pool);
        let base = base.ok_or_else(|| GatewayError::NotFound(at(pool, "there is no such pool")))?;
        let base = self.discovered.get(pool).unwrap_or(base);
        let Some(changed) = self.changed.get(pool) else {
            return Ok(base.clone());
        };
        let mut added = changed.clone();
        let kept = base.iter().filter_map(|node| match added.remove(&node.to) {
            None => Some(node.clone()),
            Some(Changed::Set(node)) => Some(node),
            Some(Changed::Differs(change)) => {
                let mut node = node.clone();
                change.apply(&mut node);
                Some(node)
            }
            Some(Changed::Removed) => None,
        });
        let mut nodes: Vec<_> = kept.collect();
        nodes.extend(added.into_values().filter_map(|changed| match changed {
            Changed::Set(node) => Some(node),
            _ => None,
        }));
        Ok(nodes)
    }

    fn apply(&self, settings: &mut Settings) {
        for (name, pool) in &mut settings.pools {
            if let Ok(nodes) = self.nodes(name) {
                pool.nodes = nodes;
            }
        }
    }
}

fn at(pool: &str, problem: &str) -> Problem {
    Problem {
        place: format!("pools.{pool}"),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::settings::{NodeState, PoolSettings};

    fn settings(nodes: &[&str]) -> Settings {
        let mut settings = Settings::default();
        let pool = PoolSettings::of(nodes.iter().map(|node| format!("http://{node}")));
        settings.pools.insert("p".to_owned(), pool);
        settings
    }

    fn of(settings: &Settings) -> Vec<(&str, u32, NodeState)> {
        let nodes = settings.pools["p"].nodes.iter();
        nodes
            .map(|node| {
                (
                    node.to.trim_start_matches("http://"),
                    node.weight,
                    node.state,
                )
            })
            .collect()
    }

    const UP: NodeState = NodeState::Up;
    const DRAIN: NodeState = NodeState::Drain;

    #[test]
    fn changes_last_until_a_configuration_has_other_nodes() {
        let (mut lists, mut now) = (NodeLists::default(), settings(&["a", "b"]));
        lists.configure(&Settings::default(), &mut now);
        let drain = NodeChange::default().state(DRAIN);
        lists.alter("p", "b", &drain, &mut now).expect("is there");
        lists
            .alter("p", "http://b", &NodeChange::default().weight(5), &mut now)
            .expect("is there");
        let is_new = lists.set("p", NodeSettings::new("http://c").weight(2), &mut now);
        assert!(is_new.expect("is possible"));
        let changed = [("a", 1, UP), ("b", 5, DRAIN), ("c", 2, UP)];
        assert_eq!(of(&now), changed);

        let mut same = settings(&["a", "b"]);
        lists.configure(&now, &mut same);
        assert_eq!(of(&same), changed);
        let mut other = settings(&["a", "b", "d"]);
        lists.configure(&now, &mut other);
        assert_eq!(of(&other), [("a", 1, UP), ("b", 1, UP), ("d", 1, UP)]);
    }

    #[test]
    fn changes_lie_over_the_lists_of_sources() {
        let (mut lists, mut now) = (NodeLists::default(), settings(&["a"]));
        lists.configure(&Settings::default(), &mut now);
        let nodes = |names: &[&str]| settings(names).pools["p"].nodes.clone();
        lists.discover("p", nodes(&["x", "y", "z"]), &mut now);
        let drain = NodeChange::default().state(DRAIN);
        lists.alter("p", "x", &drain, &mut now).expect("is there");
        lists.remove("p", "y", &mut now).expect("is there");
        assert_eq!(of(&now), [("x", 1, DRAIN), ("z", 1, UP)]);
        // A node that goes and comes again stays as it was put.
        lists.discover("p", nodes(&["z"]), &mut now);
        assert_eq!(of(&now), [("z", 1, UP)]);
        lists.discover("p", nodes(&["y", "x"]), &mut now);
        assert_eq!(of(&now), [("x", 1, DRAIN)]);
    }

    #[test]
    fn the_last_node_stays_and_unknown_ones_are_told() {
        let (mut lists, mut now) = (NodeLists::default(), settings(&["a"]));
        lists.configure(&Settings::default(), &mut now);
        let last = lists.remove("p", "a", &mut now);
        assert!(matches!(last, Err(GatewayError::Conflict(_))), "{last:?}");
        let unknown = lists.remove("p", "b", &mut now);
        assert!(
            matches!(unknown, Err(GatewayError::NotFound(_))),
            "{unknown:?}"
        );
        let unknown = lists.set("q", NodeSettings::new("http://a"), &mut now);
        assert!(
            matches!(unknown, Err(GatewayError::NotFound(_))),
            "{unknown:?}"
        );
        // One that was added is gone for good.
        lists
            .set("p", NodeSettings::new("http://b"), &mut now)
            .expect("is possible");
        lists.remove("p", "b", &mut now).expect("is there");
        assert_eq!(of(&now), [("a", 1, UP)]);
    }

    #[test]
    fn changes_by_hand_are_bounded() {
        let (mut lists, mut now) = (NodeLists::default(), settings(&["a"]));
        lists.configure(&Settings::default(), &mut now);
        for n in 0..MAX_CHANGES {
            let node = NodeSettings::new(format!("http://n{n}"));
            lists
                .change("p", &node.to.clone(), Changed::Set(node))
                .expect("has room");
        }
        let more = lists.set("p", NodeSettings::new("http://more"), &mut now);
        assert!(matches!(more, Err(GatewayError::Conflict(_))));
        assert!(lists.remove("p", "n1", &mut now).is_ok());
    }
}
