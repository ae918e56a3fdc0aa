//! Active health checks: what the answers of a node to its checks mean. It knows no socket.

use std::collections::HashMap;

use super::settings::{HealthCheck, HealthProbe};
use crate::balance::NodeId;
use crate::http::StatusCode;

/// The bytes of a body in which an expected text is looked for.
pub(super) const MAX_BODY: usize = 64 << 10;

/// The checks of a pool's nodes, on the reactor that makes them.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The rules by which the nodes are checked. `None` if they are not.
    rules: Option<HealthCheck>,
    /// The number of times that the rules have changed.
    pub(super) generation: u64,
    nodes: HashMap<NodeId, Streak>,
}

/// The last results of a node, all of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streak {
    is_good: bool,
    results: u32,
    is_under_way: bool,
}

impl Checks {
    /// Goes on by these rules. Returns true if they are others, so that the checks must begin anew or end.
    pub(super) fn set_rules(&mut self, rules: Option<&HealthCheck>) -> bool {
        if self.rules.as_ref() == rules {
            return false;
        }
        self.rules = rules.cloned();
        self.generation += 1;
        if rules.is_none() {
            // A check that is under way has no result that counts.
            self.nodes.clear();
        }
        true
    }

    pub(super) fn rules(&self) -> Option<&HealthCheck> {
        self.rules.as_ref()
    }

    /// Notes that a check begins. Returns false if the last one is still under way.
    pub(super) fn begin(&mut self, node: NodeId) -> bool {
        let streak = self.nodes.entry(node).or_default();
        !std::mem::replace(&mut streak.is_under_way, true)
    }

    /// Notes the result of a check. Returns true or false if the node is down or up after it, whatever it was before.
    pub(super) fn end(&mut self, node: NodeId, is_good: bool, rules: &HealthCheck) -> Option<bool> {
        let streak = self.nodes.entry(node).or_default();
        streak.is_under_way = false;
        if streak.is_good != is_good {
            *streak = Streak {
                is_good,
                ..Streak::default()
            };
        }
        streak.results = streak.results.saturating_add(1);
        let needed = match is_good {
            true => rules.up_after,
            false => rules.down_after,
        };
        // The rules may have changed in between, so the number may have been passed already.
        (streak.results >= needed).then_some(!is_good)
    }

    /// Forgets the nodes that are no longer in the list.
    pub(super) fn retain(&mut self, is_listed: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|node, _| is_listed(*node));
    }
}

impl HealthProbe {
    /// Returns true if a node that answers with this status may be up.
    pub(super) fn expects(&self, status: StatusCode) -> bool {
        match self {
            HealthProbe::Tcp => true,
            HealthProbe::Http { statuses, .. } if statuses.is_empty() => {
                (200..400).contains(&status.as_u16())
            }
            HealthProbe::Http { statuses, .. } => {
                let status = status.as_u16();
                statuses
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&status))
            }
        }
    }

    /// Returns the text that the body must contain.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            HealthProbe::Tcp => None,
            HealthProbe::Http { body, .. } => body.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{NodeSpec, Nodes};

    #[test]
    fn a_node_is_down_after_some_failures_in_a_row_and_up_after_some_successes() {
        let nodes = Nodes::new([NodeSpec::new("a")]);
        let node = nodes.iter().next().expect("it is there").id();
        let mut rules = HealthCheck::new(HealthProbe::Tcp);
        rules.down_after = 3;
        let mut checks = Checks::default();
        let mut after = |results: &[bool]| -> Vec<Option<bool>> {
            let ends = results
                .iter()
                .map(|is_good| checks.end(node, *is_good, &rules));
            ends.collect()
        };
        let (down, up) = (Some(true), Some(false));
        assert_eq!(after(&[false, false, true, false, false]), [None; 5]);
        assert_eq!(after(&[false, false, true, true]), [down, down, None, up]);
    }

    #[test]
    fn a_check_does_not_begin_before_the_last_one_has_ended() {
        let nodes = Nodes::new([NodeSpec::new("a")]);
        let node = nodes.iter().next().expect("it is there").id();
        let mut checks = Checks::default();
        assert!(checks.begin(node) && !checks.begin(node));
        checks.end(node, true, &HealthCheck::new(HealthProbe::Tcp));
        assert!(checks.begin(node));
    }

    #[test]
    fn rules_that_ask_for_less_hold_for_the_failures_so_far() {
        let nodes = Nodes::new([NodeSpec::new("a")]);
        let node = nodes.iter().next().expect("it is there").id();
        let mut rules = HealthCheck::new(HealthProbe::Tcp);
        rules.down_after = 100;
        let mut checks = Checks::default();
        assert!(checks.set_rules(Some(&rules)) && !checks.set_rules(Some(&rules)));
        for _ in 0..5 {
            assert_eq!(checks.end(node, false, &rules), None);
        }
        rules.down_after = 3;
        assert!(checks.set_rules(Some(&rules)));
        assert_eq!(checks.end(node, false, &rules), Some(true));
    }

    #[test]
    fn a_check_whose_pool_has_none_any_more_does_not_hold_up_later_ones() {
        let nodes = Nodes::new([NodeSpec::new("a")]);
        let node = nodes.iter().next().expect("it is there").id();
        let rules = HealthCheck::new(HealthProbe::Tcp);
        let mut checks = Checks::default();
        checks.set_rules(Some(&rules));
        assert!(checks.begin(node));
        checks.set_rules(None);
        checks.set_rules(Some(&rules));
        assert!(checks.begin(node));
    }

    #[test]
    fn statuses_from_200_to_399_are_expected_unless_others_are_named() {
        let mut probe = HealthProbe::http("/healthz");
        let expected = |probe: &HealthProbe, status| {
            probe.expects(StatusCode::from_u16(status).expect("it is one"))
        };
        assert!(expected(&probe, 200) && expected(&probe, 399));
        assert!(!expected(&probe, 404) && !expected(&probe, 503));
        if let HealthProbe::Http { statuses, .. } = &mut probe {
            statuses.push((404, 404));
        }
        assert!(expected(&probe, 404) && !expected(&probe, 200));
    }
}
