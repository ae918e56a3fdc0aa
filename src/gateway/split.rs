//! Routes to several pools: by what a request says, by a cookie, and by weight.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::settings::{ChosenBy, RouteSettings};
use crate::http::Headers;

/// The places of routes in their sequences of pools, which all reactors share. A reload keeps them.
#[derive(Debug, Default)]
pub(super) struct Sequences(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

/// A route to several pools.
#[derive(Debug)]
pub(super) struct Split {
    rules: Vec<Rule>,
    shares: Vec<Share>,
    /// The pool of requests that no rule is about, if there are no shares.
    rest: Option<usize>,
    /// The shares in the order in which requests get them. It repeats itself.
    order: Box<[u16]>,
    next: Arc<AtomicU64>,
    /// The name of the cookie that keeps a client at its pool.
    sticky: Option<Box<str>>,
}

#[derive(Debug)]
struct Rule {
    by: ChosenBy,
    value: Option<Box<[u8]>>,
    pool: Option<usize>,
}

#[derive(Debug)]
struct Share {
    name: Box<str>,
    pool: Option<usize>,
}

/// The choice for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// The number of the pool.
    pub(super) pool: Option<usize>,
    /// The cookie that the client gets: its name and its value.
    pub(super) cookie: Option<(Box<str>, Box<str>)>,
}

impl Sequences {
    fn of(&self, route: &str) -> Arc<AtomicU64> {
        let mut places = self.0.lock();
        places.entry(route.to_owned()).or_default().clone()
    }

    /// Forgets the routes that nobody uses any more.
    pub(super) fn forget_unused(&self) {
        let mut places = self.0.lock();
        places.retain(|_, place| Arc::strong_count(place) > 1);
    }
}

impl Split {
    /// Returns the choice of a route, unless it has a single pool.
    pub(super) fn new(
        settings: &RouteSettings,
        route: &str,
        pools: &HashMap<Box<str>, usize>,
        places: &Sequences,
    ) -> Option<Box<Self>> {
        if settings.split.is_empty() && settings.when.is_empty() {
            return None;
        }
        let number = |name: &str| pools.get(name).copied();
        let rules = settings.when.iter().map(|rule| Rule {
            by: rule.by.clone(),
            value: rule.value.as_ref().map(|value| value.as_bytes().into()),
            pool: number(&rule.pool),
        });
        let shares = settings.split.keys().map(|name| Share {
            name: name.as_str().into(),
            pool: number(name),
        });
        Some(Box::new(Self {
            rules: rules.collect(),
            shares: shares.collect(),
            rest: number(&settings.pool),
            order: smooth(settings.split.values().copied()),
            next: places.of(route),
            sticky: settings.sticky.as_deref().map(Into::into),
        }))
    }

    /// Chooses the pool of a request with these fields.
    pub(super) fn choose(&self, fields: Headers<'_>) -> Choice {
        let to = |pool| Choice { pool, cookie: None };
        for rule in &self.rules {
            let found = match &rule.by {
                ChosenBy::Header(name) => fields.get(name),
                ChosenBy::Cookie(name) => cookie(fields, name),
            };
            let fits = |value: &[u8]| rule.value.as_ref().is_none_or(|wanted| **wanted == *value);
            if found.is_some_and(fits) {
                return to(rule.pool);
            }
        }
        if self.order.is_empty() {
            return to(self.rest);
        }
        let known = self.sticky.as_ref().and_then(|name| cookie(fields, name));
        let mut shares = self.shares.iter();
        if let Some(share) = shares.find(|share| known == Some(share.name.as_bytes())) {
            return to(share.pool);
        }
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let at = self.order[(place % self.order.len() as u64) as usize];
        let share = &self.shares[usize::from(at)];
        Choice {
            pool: share.pool,
            cookie: self.sticky.clone().map(|name| (name, share.name.clone())),
        }
    }
}

/// Returns the value of a cookie.
fn cookie<'a>(fields: Headers<'a>, name: &str) -> Option<&'a [u8]> {
    let lines = fields.get_all("cookie");
    let mut pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

/// Returns a round in which each place has its weight, as evenly spread as that can be.
fn smooth(weights: impl Iterator<Item = u32>) -> Box<[u16]> {
    let weights: Vec<i64> = weights.map(i64::from).collect();
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let total: i64 = weights.iter().sum();
    let mut current = vec![0; weights.len()];
    let round = (0..total / divisor).map(|_| {
        for (current, weight) in current.iter_mut().zip(&weights) {
            *current += weight;
        }
        // Of equals the first.
        let most = (0..current.len()).rev().max_by_key(|at| current[*at]);
        let most = most.unwrap_or_default();
        current[most] -= total;
        // The settings have at most as many pools.
        u16::try_from(most).unwrap_or_default()
    });
    round.collect()
}

fn gcd(a: i64, b: i64) -> i64 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::settings::PoolRule;
    use crate::http::HeaderBlock;

    fn split(settings: &RouteSettings) -> Box<Split> {
        let names = ["api", "canary", "old"];
        let pools = names.iter().zip(0..);
        let pools = pools.map(|(name, number)| (Box::from(*name), number));
        let split = Split::new(settings, "r", &pools.collect(), &Sequences::default());
        split.expect("there are several pools")
    }

    fn fields(fields: &[(&str, &str)]) -> HeaderBlock {
        let mut block = HeaderBlock::new();
        for (name, value) in fields {
            block.push(name, value).expect("it is sound");
        }
        block
    }

    #[test]
    fn each_round_has_each_pool_as_often_as_its_weight_and_evenly_spread() {
        let split = split(&RouteSettings::split([("api", 95), ("canary", 5)]));
        let none = HeaderBlock::new();
        let picked: Vec<_> = (0..100)
            .map(|_| split.choose(none.headers()).pool)
            .collect();
        let canary =
            |picked: &[Option<usize>]| picked.iter().filter(|pool| **pool == Some(1)).count();
        assert_eq!(canary(&picked), 5);
        for twenty in picked.chunks(20) {
            assert_eq!(canary(twenty), 1);
        }
        assert_eq!(&*smooth([5, 1, 1].into_iter()), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(&*smooth([0, 3].into_iter()), [1]);
        assert_eq!(smooth([9999, 1].into_iter()).len(), 10_000);
    }

    #[test]
    fn a_rule_comes_before_the_cookie_and_that_before_the_weights() {
        let mut settings = RouteSettings::split([("api", 1), ("canary", 0)]);
        settings.sticky = Some("release".to_owned());
        settings.when = vec![
            PoolRule::header("X-Canary", "canary").value("yes"),
            PoolRule::cookie("old", "old"),
        ];
        let split = split(&settings);
        let drawn = Some((Box::from("release"), Box::from("api")));
        for (given, pool, cookie) in [
            (&[("x-canary", "yes")][..], 1, None),
            (&[("x-canary", "no")], 0, drawn.clone()),
            (&[("Cookie", "a=b; old=")], 2, None),
            (&[("Cookie", "older=1; x=old")], 0, drawn.clone()),
            // A pool of weight 0 keeps those that it has.
            (&[("Cookie", "release=canary")], 1, None),
            (&[("Cookie", "release=api")], 0, None),
            (&[("Cookie", "release=gone")], 0, drawn.clone()),
            (&[("Cookie", "release=old")], 0, drawn.clone()),
            (&[("Cookie", "x=y"), ("Cookie", "release=canary")], 1, None),
            (
                &[("Cookie", "release=canary"), ("X-Canary", "yes")],
                1,
                None,
            ),
            (&[], 0, drawn.clone()),
        ] {
            let chosen = split.choose(fields(given).headers());
            let wanted = Choice {
                pool: Some(pool),
                cookie,
            };
            assert_eq!(chosen, wanted, "{given:?}");
        }
    }

    #[test]
    fn without_weights_the_rest_goes_to_the_pool_of_the_route() {
        let mut settings = RouteSettings::to("api");
        settings.when.push(PoolRule::header("X-Canary", "canary"));
        let split = split(&settings);
        let pool = |given: &[(&str, &str)]| split.choose(fields(given).headers()).pool;
        assert_eq!(pool(&[]), Some(0));
        assert_eq!(pool(&[("X-Canary", "")]), Some(1));
    }
}
