//! The messages of DNS (RFC 1035, section 4), as far as sources need them. Without sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    header_buffer,
};

/// The most aliases (CNAME) on the way from a name to its records.
const MAX_ALIASES: usize = 8;

/// The type of the records that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

/// A server that a service has (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway::discover) struct Service {
    pub(in crate::gateway::discover) priority: u16,
    pub(in crate::gateway::discover) weight: u16,
    pub(in crate::gateway::discover) port: u16,
    pub(in crate::gateway::discover) target: String,
}

/// The records of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) addrs: Vec<IpAddr>,
    pub(super) services: Vec<Service>,
    /// The seconds for which all of them are good.
    pub(super) ttl: u32,
}

/// The meaning of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// It answers another question, or is no answer.
    NotOurs,
    /// It has not all records, which TCP has room for.
    Truncated,
    /// The name does not exist, or has no such record.
    Nothing,
    /// The server does not answer the question.
    Failed(String),
    Records(Records),
}

impl Kind {
    fn to_type(self) -> TYPE {
        match self {
            Kind::A => TYPE::A,
            Kind::Aaaa => TYPE::AAAA,
            Kind::Srv => TYPE::SRV,
        }
    }
}

/// Returns a question.
///
/// # Errors
///
/// The problem of the name.
pub(super) fn query(id: u16, name: &str, kind: Kind) -> Result<Vec<u8>, String> {
    let malformed = |error| format!("the name {name:?} is malformed: {error}");
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let (qtype, qclass) = (QTYPE::TYPE(kind.to_type()), QCLASS::CLASS(CLASS::IN));
    let question = Question::new(Name::new(name).map_err(malformed)?, qtype, qclass, false);
    packet.questions.push(question);
    packet.build_bytes_vec().map_err(malformed)
}

/// Reads the answer to a question.
pub(super) fn parse(bytes: &[u8], id: u16, name: &str, kind: Kind) -> Parsed {
    let is_answer = header_buffer::id(bytes).is_ok_and(|found| found == id)
        && header_buffer::has_flags(bytes, PacketFlag::RESPONSE).unwrap_or(false);
    if !is_answer {
        return Parsed::NotOurs;
    }
    if header_buffer::has_flags(bytes, PacketFlag::TRUNCATION).unwrap_or(false) {
        // Its last record may be cut.
        return Parsed::Truncated;
    }
    let Ok(packet) = Packet::parse(bytes) else {
        return Parsed::NotOurs;
    };
    let [question] = &packet.questions[..] else {
        return Parsed::NotOurs;
    };
    let is_ours = is_same(&text(&question.qname), name)
        && question.qtype == QTYPE::TYPE(kind.to_type())
        && question.qclass == QCLASS::CLASS(CLASS::IN)
        && packet.opcode() == OPCODE::StandardQuery;
    if !is_ours {
        return Parsed::NotOurs;
    }
    match packet.rcode() {
        RCODE::NoError => records(&packet.answers, name, kind),
        RCODE::NameError => Parsed::Nothing,
        other => Parsed::Failed(format!("it answers {other:?}")),
    }
}

fn records(answers: &[ResourceRecord<'_>], name: &str, kind: Kind) -> Parsed {
    let mut owner = name.to_owned();
    let mut ttl = u32::MAX;
    let of = |owner: &str, record: &&ResourceRecord<'_>| {
        record.class == CLASS::IN && is_same(&text(&record.name), owner)
    };
    for _ in 0..MAX_ALIASES {
        let alias = answers.iter().filter(|record| of(&owner, record));
        let mut alias = alias.filter_map(|record| match &record.rdata {
            RData::CNAME(alias) => Some((text(&alias.0), record.ttl)),
            _ => None,
        });
        let Some((next, good_for)) = alias.next() else {
            break;
        };
        ttl = ttl.min(good_for);
        owner = next;
    }
    let mut records = Records::default();
    for record in answers.iter().filter(|record| of(&owner, record)) {
        match (&record.rdata, kind) {
            (RData::A(a), Kind::A) => records.addrs.push(Ipv4Addr::from(a.address).into()),
            (RData::AAAA(a), Kind::Aaaa) => records.addrs.push(Ipv6Addr::from(a.address).into()),
            (RData::SRV(service), Kind::Srv) => records.services.push(Service {
                priority: service.priority,
                weight: service.weight,
                port: service.port,
                target: text(&service.target),
            }),
            _ => continue,
        }
        ttl = ttl.min(record.ttl);
    }
    records.ttl = ttl;
    match records.addrs.is_empty() && records.services.is_empty() {
        true => Parsed::Nothing,
        false => Parsed::Records(records),
    }
}

fn text(name: &Name<'_>) -> String {
    name.to_string()
}

/// Compares names as DNS does: without regard to case, and to the dot at the end.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('.')
        .eq_ignore_ascii_case(other.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use simple_dns::rdata::{A, CNAME};

    use super::*;

    fn answer(change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
        let question = query(7, "app.test", Kind::A).expect("is a name");
        let mut packet = Packet::parse(&question).expect("is a message").into_reply();
        for (name, rdata) in [
            (
                "app.test",
                RData::CNAME(CNAME(Name::new_unchecked("b.test"))),
            ),
            (
                "b.test",
                RData::A(A {
                    address: 0x0a00_0001,
                }),
            ),
            (
                "c.test",
                RData::A(A {
                    address: 0x0a00_0002,
                }),
            ),
        ] {
            let name = Name::new_unchecked(name);
            packet
                .answers
                .push(ResourceRecord::new(name, CLASS::IN, 60, rdata));
        }
        change(&mut packet);
        packet.build_bytes_vec().expect("is written")
    }

    #[test]
    fn records_are_those_of_the_name_and_of_its_alias() {
        let wanted = Records {
            addrs: vec![[10, 0, 0, 1].into()],
            services: Vec::new(),
            ttl: 60,
        };
        let parsed = parse(&answer(|_| {}), 7, "APP.test.", Kind::A);
        assert_eq!(parsed, Parsed::Records(wanted));
        // An alias that leads to itself ends.
        let circle = answer(|packet| {
            packet.answers.truncate(1);
            packet.answers[0].rdata = RData::CNAME(CNAME(Name::new_unchecked("app.test")));
        });
        assert_eq!(parse(&circle, 7, "app.test", Kind::A), Parsed::Nothing);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        for (bytes, name, kind) in [
            (answer(|packet| packet.set_id(8)), "app.test", Kind::A),
            (
                answer(|packet| packet.remove_flags(PacketFlag::RESPONSE)),
                "app.test",
                Kind::A,
            ),
            (
                answer(|packet| packet.questions.clear()),
                "app.test",
                Kind::A,
            ),
            (answer(|_| {}), "b.test", Kind::A),
            (answer(|_| {}), "app.test", Kind::Srv),
            (Vec::new(), "app.test", Kind::A),
            (answer(|_| {})[..40].to_vec(), "app.test", Kind::A),
        ] {
            assert_eq!(parse(&bytes, 7, name, kind), Parsed::NotOurs, "{bytes:?}");
        }
        let truncated = answer(|packet| packet.set_flags(PacketFlag::TRUNCATION));
        assert_eq!(parse(&truncated, 7, "app.test", Kind::A), Parsed::Truncated);
    }
}
