//! Writes in whole pages, which can go past the memory of the operating system: it would take, keep and give back a page for all
//! that is written, though most of it is never read from there.

use std::io;

/// What such a write begins and ends at a multiple of, in the file and in our memory.
pub(super) const PAGE: usize = 4096;

/// Memory that begins at a page. Taken with the first use.
#[derive(Default)]
pub(super) struct Pages(Vec<u8>);

impl Pages {
    /// Writes the parts one behind the other, from `offset` on, where a page begins, and zeros up to the end of the last page.
    /// `write` gets whole pages, one piece after the other, and where each is to go.
    ///
    /// # Errors
    /// Of `write`. Some may have been written nevertheless.
    pub(super) fn write(
        &mut self,
        mut offset: u64,
        parts: [&[u8]; 2],
        write: impl Fn(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let memory = self.memory();
        let mut len = 0;
        for mut part in parts {
            while !part.is_empty() {
                if len == memory.len() {
                    write(offset, memory)?;
                    offset = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
                    len = 0;
                }
                let (_, room) = memory.split_at_mut(len);
                let (now, later) = part.split_at(room.len().min(part.len()));
                let (place, _) = room.split_at_mut(now.len());
                place.copy_from_slice(now);
                len += now.len();
                part = later;
            }
        }
        let (pages, _) = memory.split_at_mut(len.next_multiple_of(PAGE));
        pages.iter_mut().skip(len).for_each(|byte| *byte = 0);
        write(offset, pages)
    }

    fn memory(&mut self) -> &mut [u8] {
        let Self(memory) = self;
        if memory.is_empty() {
            *memory = vec![0; BYTES + PAGE];
        }
        let begin = memory.as_ptr().align_offset(PAGE);
        memory
            .get_mut(begin..)
            .and_then(|rest| rest.get_mut(..BYTES))
            .unwrap_or_default()
    }
}

/// Written at a time.
const BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // L17: all of it, where it belongs, in whole pages of the file and of memory; what an earlier write left is not in it.
        #[test]
        fn parts_are_written_in_whole_pages(
            begin in 0_u64..10,
            tail in 0..PAGE,
            sizes in prop::collection::vec(prop_oneof![0..3 * PAGE, BYTES - PAGE..BYTES + PAGE, 0..3 * BYTES], 1..4),
        ) {
            let mut pages = Pages::default();
            for size in sizes {
                let parts = [vec![1; tail], vec![2; size]];
                let begin = begin * u64::try_from(PAGE).unwrap();
                let written = RefCell::new(Vec::new());
                pages.write(begin, [&parts[0], &parts[1]], |offset, bytes| {
                    let mut written = written.borrow_mut();
                    assert_eq!(offset, begin + u64::try_from(written.len()).unwrap());
                    assert_eq!((bytes.as_ptr().align_offset(PAGE), bytes.len() % PAGE), (0, 0));
                    written.extend_from_slice(bytes);
                    Ok(())
                }).unwrap();
                let mut expected = parts.concat();
                expected.resize(expected.len().next_multiple_of(PAGE), 0);
                prop_assert!(written.into_inner() == expected);
            }
        }
    }
}
