/// A header that is to be sent: its name and value.
pub(super) type Pair<'a> = (&'a str, &'a [u8]);

/// The number of headers for which no memory is allocated.
const FEW: usize = 4;

/// The headers of a message that is being made.
///
/// It is covariant over the lifetime, which `SmallVec` is not: a message kept as `ServerResponse<'static>` can be given
/// a header that lives shorter.
#[derive(Clone, Debug)]
pub(super) enum HeaderList<'a> {
    Few { pairs: [Pair<'a>; FEW], len: usize },
    Many(Vec<Pair<'a>>),
}

impl<'a> HeaderList<'a> {
    #[inline]
    pub(super) fn new() -> Self {
        let pairs = [("", &b""[..]); FEW];
        HeaderList::Few { pairs, len: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, pair: Pair<'a>) {
        match self {
            HeaderList::Few { pairs, len } if *len < FEW => {
                pairs[*len] = pair;
                *len += 1;
            }
            HeaderList::Few { pairs, .. } => {
                let mut many = Vec::with_capacity(2 * FEW);
                many.extend_from_slice(pairs);
                many.push(pair);
                *self = HeaderList::Many(many);
            }
            HeaderList::Many(many) => many.push(pair),
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[Pair<'a>] {
        match self {
            HeaderList::Few { pairs, len } => &pairs[..*len],
            HeaderList::Many(many) => many,
        }
    }
}
