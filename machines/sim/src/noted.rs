//! What the machine was told of areas ([`Machine::note`](vmalloc::machine::Machine::note)), and
//! the quota by which it refuses some.

use vmalloc::machine::event::Event;

/// The number with which an area over the quota is refused (EDQUOT).
pub const OVER_QUOTA: i32 = 122;

/// Counts of events.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Noted {
    /// Areas that were published.
    pub publishes: u64,
    /// Areas, or more pages of them, that were refused because of the quota.
    pub refusals: u64,
    /// Areas that a free has claimed.
    pub claims: u64,
    /// Pages that were published and not claimed since.
    pub pages: usize,
    /// Pages that were reclaimed.
    pub retired: usize,
    /// Times that a protection was changed.
    pub protects: u64,
    /// Purges.
    pub purges: u64,
    /// Calls that failed.
    pub failures: u64,
    /// The pages that may be published.
    pub(crate) quota: Option<usize>,
}

impl Noted {
    pub(crate) fn tell(&mut self, event: Event) -> Result<(), i32> {
        match event {
            Event::Publish { pages, .. } if self.quota.is_some_and(|quota| self.pages + pages > quota) => {
                self.refusals += 1;
                return Err(OVER_QUOTA);
            }
            Event::Publish { pages, .. } => {
                self.publishes += 1;
                self.pages += pages;
            }
            Event::Claim { pages, .. } => {
                self.claims += 1;
                // Two CPUs that free one area at the same moment may both be told.
                self.pages = self.pages.saturating_sub(pages);
            }
            Event::Resize { from, to, .. }
                if to > from && self.quota.is_some_and(|quota| self.pages + to - from > quota) =>
            {
                self.refusals += 1;
                return Err(OVER_QUOTA);
            }
            Event::Resize { from, to, .. } => self.pages = (self.pages + to).saturating_sub(from),
            Event::Retire(pages) => self.retired += pages,
            Event::Protect(..) => self.protects += 1,
            Event::Purge(_) => self.purges += 1,
            Event::Failure { .. } => self.failures += 1,
        }
        Ok(())
    }
}
