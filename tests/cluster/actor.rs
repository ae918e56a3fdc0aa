//! Actors of a node: their messages, their users, their timers and their end.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use epicycle::cluster::node::{
    Actor, ActorContext, ActorOptions, ActorRef, ActorRoutes, HandlerError, NodeBuilder, Request,
};
use epicycle::cluster::{Error, Event};
use parking_lot::Mutex;
use serde_json::json;

use crate::node::{Embedded, ask};
use crate::node_verbs::{listener, tell, with_login};
use crate::util::{LONG, eventually, expect_panics};

/// What the actors of a test have done.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, entry: impl Into<String>) {
        self.0.lock().push(entry.into());
    }

    fn entries(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn has(&self, entry: &str) -> bool {
        self.0.lock().iter().any(|found| found == entry)
    }
}

/// A table where users sit. It counts what it gets.
struct Table {
    name: &'static str,
    diary: Diary,
    count: i64,
}

impl Table {
    fn new(name: &'static str, diary: &Diary) -> Self {
        Self {
            name,
            diary: diary.clone(),
            count: 0,
        }
    }

    fn note(&self, what: &str) {
        self.diary.note(format!("{} {what}", self.name));
    }
}

impl Actor for Table {
    fn routes(routes: &mut ActorRoutes<Self>) {
        routes
            .route(10, |table, cx| {
                table.count += cx.parse::<i64>()?;
                cx.respond(&format!("{}: {}", table.name, table.count))
            })
            .route(11, |table, _| -> Result<(), Error> {
                panic!("on purpose at {}", table.name)
            })
            .route(12, |_, _| Err::<(), _>(Error::Cancelled))
            .route(13, |table, cx| {
                table.note(&format!("heard {} of {}", cx.parse::<i64>()?, cx.uid()));
                Ok::<(), Error>(())
            })
            .event(Event::Disconnect, |table, cx| {
                table.note(&format!("lost {}", cx.uid()));
                Ok::<(), Error>(())
            });
    }

    fn on_start(&mut self, _: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
        self.note("starts");
        Ok(())
    }

    fn on_stop(&mut self, _: &mut ActorContext<'_, Self>) {
        self.note("stops");
    }

    fn on_child_end(
        &mut self,
        _: &mut ActorContext<'_, Self>,
        child: &ActorRef,
        has_panicked: bool,
    ) {
        self.note(&format!(
            "loses {}/{} {has_panicked}",
            child.kind(),
            child.id()
        ));
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.note("is dropped");
    }
}

/// A node whose routes from 10 on are those of tables.
fn tables<T: 'static>(node: NodeBuilder<T>) -> NodeBuilder<T> {
    let next = |_: &mut T, cx: &mut Request<'_>| match cx.next() {
        Err(error) if cx.seq() > 0 => cx.respond(&error.to_string()),
        result => result,
    };
    with_login(node)
        .route(4, |_, cx| {
            let id: String = cx.parse()?;
            let bound = cx.bind_actor(cx.uid(), "table", &id);
            tell(cx, bound)
        })
        .route(10, next)
        .route(11, next)
        .route(12, next)
        .route(13, next)
        .event(Event::Disconnect, next)
}

fn spawn(world: &Embedded, name: &'static str, diary: &Diary) -> ActorRef {
    let spawned = world.node.spawn("table", name, Table::new(name, diary));
    spawned.expect("has room")
}

#[test]
fn packets_of_a_user_go_to_its_actor_which_answers() {
    let (world, diary) = (Embedded::new(tables), Diary::default());
    let (_red, _blue) = (spawn(&world, "red", &diary), spawn(&world, "blue", &diary));
    let (seven, eight) = (world.client(), world.client());
    assert_eq!(
        ask(&seven, 10, &json!(1)),
        "nobody serves the route 10; start a node that has it, or bind the user to an actor that has it"
    );
    for (client, uid, table) in [(&seven, 7, "red"), (&eight, 8, "blue")] {
        assert_eq!(ask(client, 2, &json!(uid)), "ok");
        assert_eq!(ask(client, 4, &json!(table)), "ok");
    }
    assert_eq!(ask(&seven, 10, &json!(5)), "red: 5");
    assert_eq!(ask(&eight, 10, &json!(1)), "blue: 1");
    assert_eq!(ask(&seven, 10, &json!(2)), "red: 7");
    // A user is at one actor of a kind.
    assert_eq!(ask(&seven, 4, &json!("blue")), "ok");
    assert_eq!(ask(&seven, 10, &json!(1)), "blue: 2");
    let none = ask(&seven, 4, &json!("green"));
    assert!(
        none.as_str()
            .is_some_and(|text| text.contains("actor table/green")),
        "{none}"
    );

    drop(eight);
    eventually("it is told", || diary.has("blue lost 8"));
    assert!(!diary.has("red lost 8"));
}

#[test]
fn messages_of_one_sender_keep_their_order() {
    let (world, diary) = (
        Embedded::with(|cluster| tables(cluster.node().reactors(3))),
        Diary::default(),
    );
    let table = spawn(&world, "red", &diary);
    let (client, _) = listener(&world.gate);
    assert_eq!(ask(&client, 2, &json!(7)), "ok");
    assert_eq!(ask(&client, 4, &json!("red")), "ok");
    for number in 0..500 {
        table.deliver(13, 0, &number).expect("has room");
        client.push(13, number.to_string()).expect("is connected");
    }
    for uid in [0, 7] {
        let of = format!(" of {uid}");
        let heard = || -> Vec<String> {
            let entries = diary.entries().into_iter();
            entries.filter(|entry| entry.ends_with(&of)).collect()
        };
        eventually("all have come", || heard().len() == 500);
        let wanted: Vec<String> = (0..500).map(|n| format!("red heard {n}{of}")).collect();
        assert_eq!(heard(), wanted);
    }
}

#[test]
fn a_panic_ends_its_actor_and_tells_its_owner_and_an_error_costs_its_message() {
    expect_panics();
    let (world, diary) = (Embedded::new(tables), Diary::default());
    let owner = spawn(&world, "owner", &diary);
    let of_child = diary.clone();
    let spawned = owner.invoke(move |_: &mut Table, cx| {
        cx.spawn("table", "child", Table::new("child", &of_child))
            .map(drop)
    });
    spawned.expect("has room");
    eventually("it has started", || diary.has("child starts"));
    let child = world.node.actor("table", "child").expect("is there");
    child.deliver(12, 0, "").expect("has room");
    child.deliver(13, 0, &1).expect("has room");
    child.deliver(11, 0, "").expect("has room");
    eventually("the owner is told", || {
        diary.has("owner loses table/child true")
    });
    let entries = diary.entries();
    let wanted = [
        "owner starts",
        "child starts",
        "child heard 1 of 0",
        "child is dropped",
        "owner loses table/child true",
    ];
    assert_eq!(
        entries, wanted,
        "it is not stopped, as its state may be broken"
    );
    assert!(world.node.actor("table", "child").is_none());
    assert!(
        child
            .deliver(13, 0, &1)
            .is_err_and(|error| matches!(error, Error::NotFoundEndpoint { .. }))
    );
    let stats = world.node.stats();
    assert_eq!(
        (stats.actors, stats.handler_panics, stats.handler_errors),
        (1, 1, 1)
    );
    // The name is free again.
    spawn(&world, "child", &diary);
}

#[test]
fn a_killed_actor_handles_what_waits_and_is_stopped() {
    let (world, diary) = (Embedded::new(tables), Diary::default());
    let table = spawn(&world, "red", &diary);
    let (release, held) = channel::<()>();
    hold(&table, held);
    table.deliver(13, 0, &1).expect("has room");
    table.kill();
    assert!(table.deliver(13, 0, &2).is_err(), "it is about to end");
    drop(release);
    eventually("it has ended", || {
        world.node.actor("table", "red").is_none()
    });
    assert_eq!(
        diary.entries(),
        [
            "red starts",
            "red heard 1 of 0",
            "red stops",
            "red is dropped"
        ]
    );
    eventually("none is counted", || world.node.stats().actors == 0);
    table.kill();
}

/// Keeps an actor busy until the sender is dropped.
fn hold(actor: &ActorRef, held: Receiver<()>) {
    let held = Mutex::new(held);
    let invoked = actor.invoke(move |_: &mut Table, _| {
        let _ = held.lock().recv_timeout(LONG);
        Ok::<(), Error>(())
    });
    invoked.expect("has room");
}

#[test]
fn a_full_mailbox_refuses_and_takes_messages_again() {
    let (world, diary) = (Embedded::new(tables), Diary::default());
    let table = spawn(&world, "red", &diary);
    let (release, held) = channel::<()>();
    hold(&table, held);
    eventually("it is busy", || table.waiting() == 0);
    for number in 0..4096 {
        table.deliver(13, 0, &number).expect("has room");
    }
    let refused = table.deliver(13, 0, &0).expect_err("is full");
    assert_eq!(
        refused.to_string(),
        "the mailbox of the actor is full; try again later, or send less"
    );
    drop(release);
    eventually("all are handled", || diary.has("red heard 4095 of 0"));
    table.deliver(13, 0, &7000).expect("has room again");
    eventually("it is handled", || diary.has("red heard 7000 of 0"));
}

#[test]
fn an_actor_has_one_name_and_one_type() {
    let (world, diary) = (Embedded::new(tables), Diary::default());
    let table = spawn(&world, "red", &diary);
    let twice = world.node.spawn("table", "red", Table::new("red", &diary));
    assert!(twice.is_err_and(|error| {
        error
            .to_string()
            .contains("there is an actor table/red already")
    }));
    for kind in ["", "a/b"] {
        let bad = world.node.spawn(kind, "1", Table::new("bad", &diary));
        assert!(bad.is_err_and(|error| error.to_string().contains("`kind`")));
    }
    struct Other;
    impl Actor for Other {}
    let wrong = table.invoke(|_: &mut Other, _| Ok::<(), Error>(()));
    assert!(wrong.is_err_and(|error| error.to_string().contains("table/red is no")));
    assert!(!diary.has("bad starts"));
}

#[test]
fn an_actor_that_fails_to_start_ends() {
    struct Broken(Sender<&'static str>);
    impl Actor for Broken {
        fn on_start(&mut self, _: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
            Err("no table is free".into())
        }
    }
    impl Drop for Broken {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
    let world = Embedded::new(tables);
    let (sender, dropped) = channel();
    let broken = world.node.spawn("broken", "1", Broken(sender));
    let broken = broken.expect("has room");
    assert_eq!(dropped.recv_timeout(LONG), Ok("dropped"));
    eventually("it is gone", || world.node.actor("broken", "1").is_none());
    assert!(broken.deliver(1, 0, "").is_err());
}

#[test]
fn timers_fire_can_be_cancelled_and_die_with_their_actor() {
    let (world, diary) = (Embedded::new(tables), Diary::default());
    let (red, blue) = (spawn(&world, "red", &diary), spawn(&world, "blue", &diary));
    let arm = |table: &ActorRef| {
        let invoked = table.invoke(|_: &mut Table, cx| {
            let short = Duration::from_millis(5);
            let cancelled = cx.after_time(short, |table, _| {
                table.note("cancelled");
                Ok::<(), Error>(())
            })?;
            assert!(cx.cancel(cancelled) && !cx.cancel(cancelled));
            cx.after_time(short, |table, _| {
                table.note("rings");
                Ok::<(), Error>(())
            })
            .map(drop)
        });
        invoked.expect("has room");
    };
    arm(&red);
    red.kill();
    // Later than red's timer, since it was armed later.
    eventually("red has ended", || diary.has("red is dropped"));
    arm(&blue);
    eventually("blue's timer fires", || diary.has("blue rings"));
    assert!(!diary.has("red rings") && !diary.has("blue cancelled") && !diary.has("red cancelled"));

    let overfull = blue.invoke(|table: &mut Table, cx| {
        let later =
            |cx: &mut ActorContext<'_, Table>| cx.after_time(LONG, |_, _| Ok::<(), Error>(()));
        for _ in 0..4096 {
            later(cx)?;
        }
        let refused = later(cx).expect_err("there are too many");
        table.note(&refused.to_string());
        Ok::<(), Error>(())
    });
    overfull.expect("has room");
    eventually("it is refused", || {
        diary.has("blue the list of timers of the actor is full; try again later, or send less")
    });
}

#[test]
fn a_drain_stops_the_actors_and_waits_for_those_that_ask_for_it() {
    let (world, diary) = (Embedded::new(tables), Diary::default());
    spawn(&world, "red", &diary);
    let waited = Table::new("waited", &diary);
    let ends = world.node.later().run(move |cx| {
        let options = ActorOptions::default().wait();
        let actor = cx.spawn_with(options, "table", "waited", waited)?;
        actor.invoke(|_: &mut Table, cx| {
            // It ends by itself.
            cx.after_time(Duration::from_millis(50), |table, cx| {
                table.note("is done");
                cx.stop();
                Ok::<(), Error>(())
            })
            .map(drop)
        })
    });
    ends.expect("has room");
    eventually("it has started", || diary.has("waited starts"));
    let table = world.node.actor("table", "red").expect("is there");
    world.node.drain(LONG);
    let ended = [
        diary.has("red stops"),
        diary.has("waited is done"),
        diary.has("waited stops"),
    ];
    assert_eq!(ended, [true; 3], "{:?}", diary.entries());
    assert!(table.deliver(13, 0, &1).is_err());
}
