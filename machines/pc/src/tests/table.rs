//! Places for areas that CPUs share, and their interrupts.

use core::ptr::NonNull;
use spin::Mutex;
use vmalloc_x86_64::interrupts;

/// An area and what it is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Stamped {
    /// Where it is.
    pub at: NonNull<u8>,
    /// How large.
    pub pages: usize,
    /// With what.
    pub salt: u64,
}

// SAFETY: an area belongs to no CPU.
unsafe impl Send for Stamped {}

/// A place for one area.
pub struct Place(Mutex<Option<Stamped>>);

impl Place {
    /// An empty one.
    pub const fn new() -> Place {
        Place(Mutex::new(None))
    }

    /// Interrupts look here, too.
    fn with<R>(&self, f: impl FnOnce(&mut Option<Stamped>) -> R) -> R {
        let flags = interrupts::off();
        let result = f(&mut self.0.lock());
        interrupts::restore(flags);
        result
    }

    /// Puts an area there.
    ///
    /// # Errors
    /// The area, where another one is.
    pub fn put(&self, area: Stamped) -> Result<(), Stamped> {
        self.with(|place| match place {
            Some(_) => Err(area),
            None => {
                *place = Some(area);
                Ok(())
            }
        })
    }

    /// The area that is there.
    pub fn look(&self) -> Option<Stamped> {
        self.with(|place| *place)
    }

    /// Takes the area away, for one taker.
    pub fn take(&self) -> Option<Stamped> {
        self.with(Option::take)
    }
}
