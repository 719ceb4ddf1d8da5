//! Pages that are their own frames, and what becomes of what was stored in them.
//!
//! ```text
//!   clear ──mapped──▶ kept ──unmapped──▶ leaving ──flush──▶ lost: clear when it is mapped again
//!                      ▲────────mapped──────┘
//! ```
//!
//! A page that is mapped again before any flush still has what was stored in it: nobody may rely on
//! its being clear, nor on its being as it was.

use std::collections::HashSet;

/// Pages by number.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Pages that have what was stored in them.
    kept: HashSet<usize>,
    /// Those of them that were unmapped, with no flush since.
    leaving: HashSet<usize>,
}

impl Window {
    /// `page` is mapped. Returns whether it has to be clear, which it is not yet.
    pub(crate) fn mapped(&mut self, page: usize) -> bool {
        self.leaving.remove(&page);
        self.kept.insert(page)
    }

    /// `pages` were unmapped.
    pub(crate) fn unmapped(&mut self, pages: impl Iterator<Item = usize>) {
        let kept = &self.kept;
        self.leaving.extend(pages.filter(|page| kept.contains(page)));
    }

    /// Some CPU has flushed the pages for which `is_flushed`.
    pub(crate) fn flushed(&mut self, is_flushed: impl Fn(usize) -> bool) {
        let kept = &mut self.kept;
        self.leaving.retain(|&page| {
            let lost = is_flushed(page);
            if lost {
                kept.remove(&page);
            }
            !lost
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_clear_after_a_flush_and_not_before() {
        let mut window = Window::default();
        assert!(window.mapped(7), "it is new");
        assert!(!window.mapped(7), "it has what was stored in it");
        window.unmapped([7, 8].into_iter());
        assert!(!window.mapped(7), "nobody has flushed");
        window.flushed(|_| true);
        assert!(!window.mapped(7), "it was mapped when somebody flushed");
        window.unmapped([7, 8].into_iter());
        window.flushed(|page| page == 8);
        assert!(!window.mapped(7), "another page was flushed");
        window.unmapped([7].into_iter());
        window.flushed(|page| page == 7);
        assert!(window.mapped(7), "it was lost");
    }
}
