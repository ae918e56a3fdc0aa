use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use epicycle::cluster::dispatch::{Dispatch, Policy, Refusal, RouteTable, Source};
use epicycle::cluster::registry::{Instance, RouteSpec};
use epicycle::cluster::{Event, State};

use crate::registry::node;

const USER: Source = Source::Client { cid: 5, uid: 7 };
const STRANGER: Source = Source::Client { cid: 5, uid: 0 };

/// A node of weight and state that serves these routes.
fn serving(id: &str, weight: u32, state: State, routes: &[RouteSpec]) -> Arc<Instance> {
    let mut instance = node(id);
    instance.weight = weight;
    instance.state = state;
    instance.routes = routes.to_vec();
    Arc::new(instance)
}

fn plain(id: &str, weight: u32) -> Arc<Instance> {
    serving(id, weight, State::Work, &[RouteSpec::new(1)])
}

fn table(policy: Policy, nodes: &[Arc<Instance>]) -> RouteTable {
    let (table, disagreements) = RouteTable::new(policy).updated(nodes);
    assert!(disagreements.is_empty(), "{disagreements:?}");
    table
}

fn picked(table: &RouteTable, route: i32, source: Source) -> Result<String, Refusal> {
    match table.dispatch(route, source) {
        Dispatch::To(node) => Ok(node.id.clone()),
        Dispatch::Refuse(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

fn shares(table: &RouteTable, picks: i64) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for n in 0..picks {
        let user = Source::Client { cid: 1, uid: n + 1 };
        *shares
            .entry(picked(table, 1, user).expect("is served"))
            .or_default() += 1;
    }
    shares
}

#[test]
fn turns_by_weight_are_exact_over_eight_threads() {
    let nodes = [plain("a", 5), plain("b", 2), plain("c", 1)];
    for (policy, expected) in [
        (Policy::Weighted, [5000, 2000, 1000]),
        (Policy::RoundRobin, [2667, 2667, 2666]),
    ] {
        let table = table(policy, &nodes);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let table = table.clone();
                thread::spawn(move || shares(&table, 1000))
            })
            .collect();
        let mut total = BTreeMap::new();
        for thread in threads {
            for (id, share) in thread.join().expect("does not panic") {
                *total.entry(id).or_insert(0) += share;
            }
        }
        assert_eq!(
            total.into_values().collect::<Vec<_>>(),
            expected,
            "{policy:?}"
        );
    }
}

#[test]
fn turns_go_on_when_the_list_changes() {
    let (a, b, c) = (plain("a", 1), plain("b", 1), plain("c", 1));
    let before = table(Policy::Weighted, &[a.clone(), b.clone()]);
    let first = picked(&before, 1, USER).expect("is served");
    // The same nodes, in another order and with another state of the registry.
    let (after, _) = before.updated(&[b.clone(), a.clone()]);
    assert_ne!(picked(&after, 1, USER).expect("is served"), first);
    let (more, _) = after.updated(&[c, b, a]);
    assert_eq!(
        shares(&more, 300).into_values().collect::<Vec<_>>(),
        [100; 3]
    );
}

#[test]
fn chance_gives_each_node_its_share_whatever_its_weight() {
    let table = table(
        Policy::Random,
        &[plain("a", 9), plain("b", 0), plain("c", 1)],
    );
    for (id, share) in shares(&table, 6000) {
        assert!((1700..2300).contains(&share), "{id}: {share}");
    }
}

#[test]
fn a_hash_keeps_a_user_at_its_node_and_moves_only_those_whose_node_is_gone() {
    let nodes = [plain("a", 1), plain("b", 1), plain("c", 2)];
    let whole = table(Policy::Hash, &nodes);
    // Another server, that read the registry in another order.
    let turned = [nodes[2].clone(), nodes[0].clone(), nodes[1].clone()];
    let other = table(Policy::Hash, &turned);
    let (without, _) = whole.updated(&nodes[..2]);
    let mut at_c = 0;
    for uid in 1..=4000 {
        let user = Source::Client { cid: uid * 3, uid };
        let at = picked(&whole, 1, user).expect("is served");
        assert_eq!(picked(&other, 1, user).as_ref(), Ok(&at));
        // Another connection of the same user, and another node, find the same.
        let elsewhere = Source::Client { cid: 1, uid };
        assert_eq!(picked(&whole, 1, elsewhere).as_ref(), Ok(&at));
        assert_eq!(picked(&whole, 1, Source::Node { uid }).as_ref(), Ok(&at));
        if at == "c" {
            at_c += 1;
        } else {
            assert_eq!(picked(&without, 1, user).as_ref(), Ok(&at));
        }
    }
    assert!((1800..2200).contains(&at_c), "{at_c}");
    // Without a user the connection counts.
    let spread: BTreeMap<_, ()> = (1..100)
        .map(|cid| {
            (
                picked(&whole, 1, Source::Client { cid, uid: 0 }).expect("is served"),
                (),
            )
        })
        .collect();
    assert_eq!(spread.len(), 3);
}

#[test]
fn nodes_in_work_come_first_then_busy_ones_and_others_never() {
    let routes = [RouteSpec::new(1)];
    let of = |states: &[State]| -> Vec<_> {
        let states = states.iter().enumerate();
        states
            .map(|(n, state)| serving(&format!("n{n}-{state}"), 1, *state, &routes))
            .collect()
    };
    use State::{Busy, Hang, Shut, Work};
    for policy in [
        Policy::Random,
        Policy::RoundRobin,
        Policy::Weighted,
        Policy::Hash,
    ] {
        let both = table(policy, &of(&[Busy, Work, Hang, Work, Shut]));
        assert_eq!(
            shares(&both, 200).into_keys().collect::<Vec<_>>(),
            ["n1-work", "n3-work"]
        );
        let busy = table(policy, &of(&[Busy, Hang, Busy, Shut]));
        assert_eq!(
            shares(&busy, 200).into_keys().collect::<Vec<_>>(),
            ["n0-busy", "n2-busy"]
        );
        let none = table(policy, &of(&[Hang, Shut]));
        assert_eq!(picked(&none, 1, USER), Err(Refusal::NoneWorking));
    }
    // A route that only nodes in `shut` have is no route.
    let shut = table(Policy::Random, &of(&[Shut]));
    assert_eq!(picked(&shut, 1, USER), Err(Refusal::UnknownRoute));
}

#[test]
fn a_route_goes_only_to_the_nodes_that_have_it() {
    let new = serving(
        "new",
        1,
        State::Work,
        &[RouteSpec::new(1), RouteSpec::new(2)],
    );
    let table = table(Policy::Weighted, &[plain("old", 1), new]);
    for _ in 0..20 {
        assert_eq!(picked(&table, 2, USER).as_deref(), Ok("new"));
    }
    assert_eq!(shares(&table, 20).len(), 2);
    assert_eq!(picked(&table, 3, USER), Err(Refusal::UnknownRoute));
}

#[test]
fn the_flags_of_a_route_say_who_may_use_it() {
    let routes = [
        RouteSpec::new(1),
        RouteSpec::new(2).internal(),
        RouteSpec::new(3).stateful(),
        RouteSpec::new(4).authorized(),
    ];
    let table = table(Policy::Random, &[serving("a", 1, State::Work, &routes)]);
    let (service, nobody) = (Source::Node { uid: 7 }, Source::Node { uid: 0 });
    for source in [USER, STRANGER, service, nobody] {
        assert!(picked(&table, 1, source).is_ok());
        assert_eq!(picked(&table, 5, source), Err(Refusal::UnknownRoute));
    }
    assert_eq!(picked(&table, 2, USER), Err(Refusal::Internal));
    assert_eq!(picked(&table, 2, STRANGER), Err(Refusal::Internal));
    assert!(picked(&table, 2, service).is_ok() && picked(&table, 2, nobody).is_ok());
    for source in [USER, service] {
        let Dispatch::Locate { alias, uid } = table.dispatch(3, source) else {
            panic!("is stateful");
        };
        assert_eq!((&**alias, uid), ("node", 7));
    }
    for source in [STRANGER, nobody] {
        assert_eq!(picked(&table, 3, source), Err(Refusal::NoUser));
    }
    assert!(picked(&table, 4, USER).is_ok());
    assert_eq!(picked(&table, 4, STRANGER), Err(Refusal::NoUser));
    assert!(picked(&table, 4, nobody).is_ok());
}

#[test]
fn a_stateful_route_goes_to_the_node_of_the_user_in_any_state_but_shut() {
    for (state, takes) in [
        (State::Work, true),
        (State::Busy, true),
        (State::Hang, true),
        (State::Shut, false),
    ] {
        let table = table(Policy::Random, &[serving("a", 1, state, &[])]);
        match table.located(Some("a")) {
            Dispatch::To(node) => assert!(takes && node.id == "a"),
            Dispatch::Refuse(refusal) => assert!(!takes && refusal == Refusal::NotLocated),
            other => panic!("{other:?}"),
        }
        for nowhere in [None, Some("b")] {
            let refused = table.located(nowhere);
            assert!(matches!(refused, Dispatch::Refuse(Refusal::NotLocated)));
        }
    }
}

#[test]
fn nodes_that_disagree_about_a_route_are_told_and_the_stricter_flags_hold() {
    let strict = RouteSpec::new(1).authorized();
    let internal = RouteSpec::new(1).internal();
    let nodes = [
        plain("a", 1),
        serving("b", 1, State::Hang, &[strict]),
        serving("c", 1, State::Shut, &[internal]),
    ];
    let (table, disagreements) = RouteTable::new(Policy::Random).updated(&nodes);
    let [disagreement] = &disagreements[..] else {
        panic!("{disagreements:?}");
    };
    assert_eq!((disagreement.route, &*disagreement.alias), (1, "node"));
    for part in ["the nodes \"a\", \"b\" disagree", "authorized true"] {
        assert!(disagreement.to_string().contains(part), "{disagreement}");
    }
    let (spec, _) = table.route(1).expect("is served");
    // A node in `shut` has no say.
    assert_eq!((spec.authorized, spec.internal), (true, false));
    assert_eq!(picked(&table, 1, STRANGER), Err(Refusal::NoUser));
}

#[test]
fn a_route_of_two_aliases_belongs_to_the_first_of_the_alphabet() {
    let mut hall = node("h");
    "hall".clone_into(&mut hall.alias);
    hall.routes = vec![RouteSpec::new(1)];
    let (table, disagreements) =
        RouteTable::new(Policy::Random).updated(&[plain("n", 1), Arc::new(hall)]);
    assert_eq!(disagreements.len(), 1);
    assert_eq!(&*disagreements[0].alias, "hall");
    for _ in 0..20 {
        assert_eq!(picked(&table, 1, USER).as_deref(), Ok("h"));
    }
}

#[test]
fn events_go_to_all_nodes_that_want_them() {
    let wanting = |id: &str, state, events: &[i32]| {
        let mut instance = node(id);
        instance.state = state;
        instance.events = events.to_vec();
        Arc::new(instance)
    };
    let nodes = [
        wanting("d", State::Shut, &[1, 2, 3]),
        wanting("c", State::Hang, &[1, 3]),
        wanting("b", State::Work, &[]),
        wanting("a", State::Busy, &[3, 99]),
    ];
    let table = table(Policy::Random, &nodes);
    let ids = |event| -> Vec<_> {
        let wanting = table.wanting(event).iter();
        wanting.map(|node| node.id.clone()).collect()
    };
    assert_eq!(ids(Event::Connect), ["c"]);
    assert!(ids(Event::Reconnect).is_empty());
    assert_eq!(ids(Event::Disconnect), ["a", "c"]);
}

#[test]
fn policies_have_the_names_of_due() {
    for (name, policy) in [
        ("random", Policy::Random),
        ("rr", Policy::RoundRobin),
        ("wrr", Policy::Weighted),
        ("hash", Policy::Hash),
    ] {
        assert_eq!(name.parse::<Policy>().expect("is one"), policy);
    }
    let error = "roundrobin".parse::<Policy>().expect_err("is none");
    assert!(
        error.to_string().contains("random, rr, wrr, hash"),
        "{error}"
    );
}
