//! The order in which a reactor's slots were last touched.

/// A list of slots in the order of their last touch. Each operation takes constant time.
#[derive(Debug)]
pub(crate) struct Recency {
    /// A ring of links. Index 0 is the head, between the last slot and the first. Index N + 1 is slot N. A slot that is not in
    /// the list links to itself. Takes 8 bytes for each slot up to the highest.
    links: Vec<Neighbours>,
}

#[derive(Clone, Copy, Debug)]
struct Neighbours {
    before: u32,
    behind: u32,
}

const HEAD: usize = 0;

impl Recency {
    pub(crate) fn new() -> Self {
        Self {
            links: vec![Neighbours::to_itself(HEAD)],
        }
    }

    /// Moves a slot to the end of the list.
    pub(crate) fn touch(&mut self, slot: usize) {
        let place = slot + 1;
        while self.links.len() <= place {
            self.links.push(Neighbours::to_itself(self.links.len()));
        }
        self.unlink(place);
        let last = self.links[HEAD].before as usize;
        self.links[place] = Neighbours {
            before: last as u32,
            behind: HEAD as u32,
        };
        self.links[last].behind = place as u32;
        self.links[HEAD].before = place as u32;
    }

    /// Removes a slot if it is in the list.
    pub(crate) fn remove(&mut self, slot: usize) {
        let place = slot + 1;
        if place < self.links.len() {
            self.unlink(place);
            self.links[place] = Neighbours::to_itself(place);
        }
    }

    /// Returns the slot whose last touch is the oldest.
    pub(crate) fn first(&self) -> Option<usize> {
        (self.links[HEAD].behind as usize).checked_sub(1)
    }

    fn unlink(&mut self, place: usize) {
        let Neighbours { before, behind } = self.links[place];
        self.links[before as usize].behind = behind;
        self.links[behind as usize].before = before;
    }
}

impl Neighbours {
    /// Returns the links of a slot that is not in the list. Slots have 22 bits, so their indexes fit.
    fn to_itself(place: usize) -> Self {
        let place = place as u32;
        Self {
            before: place,
            behind: place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_the_order_as_a_plain_list_does() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut recency = Recency::new();
        let mut plain: Vec<usize> = Vec::new();
        for _ in 0..20_000 {
            let slot = random.usize(..20);
            plain.retain(|known| *known != slot);
            if random.u8(..3) == 0 {
                recency.remove(slot);
            } else {
                recency.touch(slot);
                plain.push(slot);
            }
            assert_eq!(recency.first(), plain.first().copied());
        }
        while let Some(slot) = recency.first() {
            assert_eq!(slot, plain.remove(0));
            recency.remove(slot);
        }
        assert!(plain.is_empty());
    }
}
