use std::sync::LazyLock;

use ::uuid::{ContextV1, Timestamp, Uuid};

/// Returns an id that no other server makes: a UUID of version 1, as due's messages and locks have it.
///
/// It can be guessed, so it is no secret.
///
/// # Examples
///
/// ```
/// let id = epicycle::cluster::new_uuid();
/// assert_eq!(id.len(), 36);
/// assert_ne!(id, epicycle::cluster::new_uuid());
/// ```
pub fn new_uuid() -> String {
    static MAKER: LazyLock<Maker> = LazyLock::new(Maker::new);
    let time = Timestamp::now(&MAKER.context);
    Uuid::new_v1(time, &MAKER.node).to_string()
}

/// The parts that the ids of this process have in common.
struct Maker {
    context: ContextV1,
    node: [u8; 6],
}

impl Maker {
    fn new() -> Self {
        let mut random = fastrand::Rng::new();
        let mut node = [0; 6];
        random.fill(&mut node);
        // A random node id has the multicast bit (RFC 9562, section 6.10).
        node[0] |= 1;
        Self {
            context: ContextV1::new(random.u16(..)),
            node,
        }
    }
}
