//! The head that a reactor has read last. Clients that keep a connection, and all of one kind, send the same head
//! again and again: one that is the same to the byte needs no second parse.

use std::cell::RefCell;

use super::error::MessageError;
use super::head::{self, Head};
use super::limits::Limits;

/// The longest head that is remembered: to copy it must cost next to nothing beside parsing it.
const LONGEST: usize = 1 << 10;

struct Recent {
    bytes: [u8; LONGEST],
    len: usize,
    /// What it was read as.
    read_as: Option<Head>,
    /// The limits it was held against.
    limits: (u32, u32, u16),
}

thread_local! {
    static RECENT: RefCell<Recent> = const {
        RefCell::new(Recent {
            bytes: [0; LONGEST],
            len: 0,
            read_as: None,
            limits: (0, 0, 0),
        })
    };
}

/// The same as [`head::parse`], which depends on nothing but the bytes of the head and the limits.
#[inline]
pub(super) fn parse(src: &[u8], limits: &Limits) -> Result<Option<Head>, MessageError> {
    RECENT.with_borrow_mut(|recent| {
        if let Some(head) = &recent.read_as
            && src.starts_with(&recent.bytes[..recent.len])
            && recent.limits == limits.of_head()
        {
            return Ok(Some(*head));
        }
        parse_anew(recent, src, limits)
    })
}

#[inline(never)]
fn parse_anew(
    recent: &mut Recent,
    src: &[u8],
    limits: &Limits,
) -> Result<Option<Head>, MessageError> {
    let parsed = head::parse(src, limits)?;
    if let Some(head) = parsed
        && let Some(place) = recent.bytes.get_mut(..head.len())
    {
        place.copy_from_slice(&src[..head.len()]);
        recent.len = head.len();
        recent.read_as = Some(head);
        recent.limits = limits.of_head();
    }
    Ok(parsed)
}
