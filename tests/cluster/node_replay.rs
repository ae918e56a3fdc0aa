//! A recorded conversation with a node of due.

use std::sync::Arc;

use epicycle::cluster::node::{Node, Request, RouteFlag};
use epicycle::cluster::{Error, Event};
use parking_lot::Mutex;

use crate::rig::Wire;
use crate::util::eventually;
use crate::vectors::{hex, rows, unhex};

/// What due leaves without an answer, and is answered here with code 2: an operation for gates.
const OTHERWISE: [(&str, &str); 1] = [("bind at a node", "0000000c000200000000000000110002")];

#[test]
fn a_recorded_conversation_with_a_node_of_due_has_the_same_answers_here() {
    for reactors in [1, 3] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let note = move |_: &mut (), cx: &mut Request<'_>| {
            let event = cx.event().map(Event::code);
            log.lock().push((event, cx.route(), cx.cid(), cx.uid()));
            Ok::<(), Error>(())
        };
        let node = Node::builder()
            .reactors(reactors)
            .route(1, note.clone())
            .route_with(3, RouteFlag::Stateful, note.clone())
            .route_with(4, RouteFlag::Authorized, note.clone())
            .route_with(5, RouteFlag::Internal, note.clone())
            .event(Event::Connect, note.clone())
            .event(Event::Reconnect, note.clone())
            .event(Event::Disconnect, note)
            .start()
            .expect("starts");
        let mut link = Wire::connect(node.link_addr());
        let mut replayed = 0;
        for row in rows("drpc_node") {
            if row.dir == "c>s" {
                link.send(unhex(&row.data).expect("is hex"));
                continue;
            }
            let here = OTHERWISE
                .iter()
                .find(|(scenario, _)| *scenario == row.scenario);
            let expected = match here {
                Some((_, here)) => here,
                // Whatever came would be taken for the next answer.
                None if row.data.starts_with("NOTHING") => continue,
                None => &*row.data,
            };
            let answer = link.next().expect("the link is open");
            assert_eq!(hex(&answer), expected, "{}", row.scenario);
            replayed += 1;
        }
        if replayed == 0 {
            return;
        }
        assert_eq!(replayed, 18);
        let expected = [
            (None, 1, 5, 0),
            (None, 1, 5, 0),
            (None, 4, 5, 0),
            (None, 5, 5, 0),
            (Some(1), 0, 5, 0),
            (Some(2), 0, 5, 7),
            (Some(3), 0, 5, 7),
        ];
        // With several reactors those before and after the login are on different ones, and one may be later than the last answer.
        let in_order = || {
            let mut seen = seen.lock().clone();
            seen.sort_unstable();
            seen
        };
        eventually("all are seen", || in_order().len() >= expected.len());
        assert_eq!(in_order(), expected, "with {reactors} reactors");
    }
}
