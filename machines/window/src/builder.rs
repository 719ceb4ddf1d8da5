//! [`Builder`]: how much of what, and the error where it cannot be had.

use crate::machine::{LogSink, Window, to_stderr};
use crate::marks;
use crate::os;
use crate::source::Source;
use crate::space::{PIECE, Space};
use core::fmt;
use vmalloc::machine::{Level, Machine};
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Config, InitError, Placement, Policy, Vmalloc};

const GIB: usize = 1 << 30;
/// More indices would be more chunks in use, not more speed.
const MOST_CPUS: u32 = 64;

/// Pages that wait on a CPU for a flush. A call to Linux is shared by enough of them, and what they hold
/// comes back before it is cold.
const BATCH: usize = 128;

/// An instance to be made. All has defaults: 64 GiB of addresses, as much memory as the computer has,
/// an index a processor, the policy Unmap.
#[derive(Clone, Debug)]
pub struct Builder {
    window: usize,
    memory: Option<usize>,
    bookkeeping: Option<usize>,
    cpus: Option<u32>,
    mappings: Option<usize>,
    policy: Policy,
    placement: Placement,
    guards: bool,
    log: LogSink,
}

/// Starts building an instance.
pub const fn builder() -> Builder {
    Builder {
        window: 64 * GIB,
        memory: None,
        bookkeeping: None,
        cpus: None,
        mappings: None,
        policy: Policy::Unmap,
        placement: Placement::Classes,
        guards: true,
        log: to_stderr,
    }
}

impl Builder {
    /// Bytes of addresses, rounded up to 2 MiB, at most 16 TiB less a page. They cost nothing until
    /// they are first used.
    pub const fn window(mut self, bytes: usize) -> Builder {
        self.window = bytes;
        self
    }

    /// Bytes that areas may have together, those that wait for a flush included. Linux provides them
    /// when they are first used.
    pub const fn memory(mut self, bytes: usize) -> Builder {
        self.memory = Some(bytes);
        self
    }

    /// The most bytes of bookkeeping: by default a sixty-fourth of the window and 16 MiB, which is
    /// enough for areas of a page each.
    pub const fn bookkeeping(mut self, bytes: usize) -> Builder {
        self.bookkeeping = Some(bytes);
        self
    }

    /// The number of CPU indices, 1 to 64.
    pub const fn cpus(mut self, cpus: u32) -> Builder {
        self.cpus = Some(cpus);
        self
    }

    /// The most mappings that the machine may have, if that is less than the process may.
    pub const fn mappings(mut self, mappings: usize) -> Builder {
        self.mappings = Some(mappings);
        self
    }

    /// When freed areas become unreachable: under Unmap, unless told, with a flush that many share. Park
    /// is Unmap here.
    pub const fn policy(mut self, policy: Policy) -> Builder {
        self.policy = policy;
        self
    }

    /// Where areas go. Both ways take the lowest addresses first: by units of 64 pages, each for areas of
    /// one size, unless told; or page by page, which takes fewer addresses where sizes are many
    /// and areas few, and half a microsecond more a pair.
    pub const fn placement(mut self, placement: Placement) -> Builder {
        self.placement = placement;
        self
    }

    /// Closes pages by `mprotect`, as on Linux before 6.13: an area costs up to two mappings.
    pub const fn without_guards(mut self) -> Builder {
        self.guards = false;
        self
    }

    /// Sends the log to `sink` rather than to stderr.
    pub const fn log(mut self, sink: LogSink) -> Builder {
        self.log = sink;
        self
    }

    /// An instance that serves.
    ///
    /// # Errors
    /// What could not be had.
    pub fn build(&self) -> Result<Vmalloc<Window>, BuildError> {
        let vm = Vmalloc::new(self.machine()?);
        let config = Config::region(vm.machine().region()).placement(self.placement).policy(self.policy);
        let config = config.batch_pages(BATCH);
        // SAFETY: N1: the region is a reservation of the machine's own. N2: nobody has the instance yet.
        unsafe { vm.init(config).map_err(BuildError::Init)? };
        Ok(vm)
    }

    /// The machine alone, for those who choose more of the [`Config`].
    ///
    /// # Errors
    /// What could not be had, and Linux's error number.
    pub fn machine(&self) -> Result<Window, BuildError> {
        let window =
            self.window.max(1).checked_next_multiple_of(PIECE).filter(|bytes| bytes / PAGE_SIZE <= marks::MOST);
        let window = window.ok_or(BuildError::TooLarge { bytes: self.window })?;
        let named = |what, bytes| move |number| BuildError::Refused { what, bytes, number };
        let wanted = self.bookkeeping.unwrap_or(bookkeeping(window));
        let source = Source::new(wanted).map_err(named("addresses for the bookkeeping", wanted))?;
        let guards = self.guards && os::has_guards();
        let space =
            Space::new(window, guards, self.mappings, self.log).map_err(named("addresses for the window", window))?;
        let pages = self.memory.unwrap_or_else(os::memory).div_ceil(PAGE_SIZE);
        let machine = Window::new(source, space, self.cpu_count(), pages, self.log);
        let machine = machine.ok_or(BuildError::NoRoom { bookkeeping: wanted })?;
        if !guards {
            machine.log(Level::Info, format_args!("{NO_GUARDS}"));
        }
        Ok(machine)
    }

    fn cpu_count(&self) -> u32 {
        self.cpus.unwrap_or_else(os::processors).clamp(1, MOST_CPUS)
    }
}

/// Bytes of bookkeeping that are enough for a window with areas of a page each.
pub fn bookkeeping(window: usize) -> usize {
    window / 64 + (16 << 20)
}

/// What is told once where there are none.
const NO_GUARDS: &str =
    "no guards without mappings (MADV_GUARD_INSTALL, Linux 6.13): areas cost up to two mappings each";

/// Why a machine could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// A window that no process can have.
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Linux refused.
    Refused {
        /// What was asked for.
        what: &'static str,
        /// How much of it.
        bytes: usize,
        /// Linux's error number.
        number: i32,
    },
    /// Not a frame for the root table.
    NoRoom {
        /// Bytes for the bookkeeping.
        bookkeeping: usize,
    },
    /// The instance refused.
    Init(InitError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::TooLarge { bytes } => write!(f, "a window of {bytes} bytes is more than a machine can have"),
            BuildError::Refused { what, bytes, number } => {
                write!(f, "no {what}, {bytes} bytes: error {number} ({})", os::name(*number))
            }
            BuildError::NoRoom { bookkeeping } => write!(f, "{bookkeeping} bytes of bookkeeping are too few"),
            BuildError::Init(why) => write!(f, "{why}"),
        }
    }
}

impl core::error::Error for BuildError {}
