//! Errors by number and by text.
//!
//! A number is negative: that of the `errno` whose meaning is the nearest. The text of a thread's
//! last error has the numbers of that call: how much was wanted, and how much there is. It lies in
//! the thread's own storage and takes no memory.

use crate::text;
use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use vmalloc::error::Broken;
use vmalloc::{AllocError, FreeError, InitError};
use vmalloc_hosted::{BUDGET_SPENT, BuildError};
use vmalloc_kernel::Errno;

/// Why a call was refused. Nothing has changed then.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Number {
    /// It was not refused.
    Ok = 0,
    /// No area holds this address.
    Noent = -2,
    /// Linux refused; the text has its number.
    Io = -5,
    /// More than there is memory, or addresses, in all.
    TooBig = -7,
    /// A flush would give back what is short, and the caller must not wait for it.
    Again = -11,
    /// No memory.
    Nomem = -12,
    /// The page is in use by somebody else.
    Busy = -16,
    /// An argument that can never be right.
    Inval = -22,
    /// No gap in the addresses is wide enough.
    Nospc = -28,
    /// Not from here: in the middle of another call, or where nobody may wait.
    Deadlk = -35,
    /// The area was freed before.
    Already = -114,
    /// A rule is broken: memory of the instance was overwritten, or this library has a fault.
    Unclean = -117,
    /// The process has as many mappings as it may have (`vm.max_map_count`).
    Dquot = -122,
    /// This library has a fault, and stopped in the middle of a call: the instance serves no more.
    Notrecoverable = -131,
}

const TEXTS: [(Number, &CStr); 14] = [
    (Number::Ok, c"success"),
    (Number::Noent, c"no area at this address"),
    (Number::Io, c"Linux refused a mapping"),
    (Number::TooBig, c"more than there is in all"),
    (Number::Again, c"a flush would help, and the caller must not wait"),
    (Number::Nomem, c"out of memory"),
    (Number::Busy, c"the page is in use"),
    (Number::Inval, c"an argument that can never be right"),
    (Number::Nospc, c"no gap in the addresses is wide enough"),
    (Number::Deadlk, c"not possible from here"),
    (Number::Already, c"freed before"),
    (Number::Unclean, c"a rule is broken"),
    (Number::Dquot, c"no more mappings: see vm.max_map_count"),
    (Number::Notrecoverable, c"the library has a fault, and the instance serves no more"),
];

/// An error on its way to C.
pub struct Failure {
    number: Number,
    why: Why,
}

/// What the text is made of.
enum Why {
    Text(&'static str),
    Alloc(AllocError),
    Free(FreeError),
    Build(BuildError),
    Broken(Broken),
    Kernel(vmalloc_kernel::Error),
}

impl Failure {
    /// An error with a text of its own.
    pub fn new(number: Number, text: &'static str) -> Failure {
        Failure { number, why: Why::Text(text) }
    }

    /// An argument that can never be right.
    pub fn argument(text: &'static str) -> Failure {
        Failure::new(Number::Inval, text)
    }

    /// Whether the library has a fault.
    pub fn is_fault(&self) -> bool {
        self.number == Number::Notrecoverable
    }

    /// Becomes the last error of this thread.
    pub fn note(self) -> Number {
        LAST.with(|last| last.set(&self));
        self.number
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Text(text) => f.write_str(text),
            Why::Alloc(error) => error.fmt(f),
            Why::Free(error) => error.fmt(f),
            Why::Build(error) => error.fmt(f),
            Why::Broken(error) => error.fmt(f),
            Why::Kernel(error) => error.fmt(f),
        }
    }
}

impl From<AllocError> for Failure {
    fn from(error: AllocError) -> Failure {
        let number = match error {
            AllocError::TooLarge { .. } => Number::TooBig,
            AllocError::NoAddresses { .. } => Number::Nospc,
            AllocError::NoFrames { .. } | AllocError::NoTables { .. } => Number::Nomem,
            AllocError::InUse(_) | AllocError::Restricted(_) => Number::Busy,
            AllocError::WouldWait(..) => Number::Again,
            AllocError::WrongContext(_) => Number::Deadlk,
            AllocError::Refused(BUDGET_SPENT) => Number::Dquot,
            AllocError::Refused(_) => Number::Io,
            _ => Number::Inval,
        };
        Failure { number, why: Why::Alloc(error) }
    }
}

impl From<FreeError> for Failure {
    fn from(error: FreeError) -> Failure {
        let number = match error {
            FreeError::NotAnArea(_) => Number::Noent,
            FreeError::DoubleFree { .. } => Number::Already,
            _ => Number::Inval,
        };
        Failure { number, why: Why::Free(error) }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Failure {
        let number = match error {
            BuildError::TooLarge { .. } | BuildError::BeyondMemory { .. } | BuildError::FileLimit { .. } => {
                Number::TooBig
            }
            BuildError::Refused { .. } => Number::Io,
            BuildError::Mappings { .. } => Number::Dquot,
            BuildError::NoRoom { .. } | BuildError::NoRecords { .. } | BuildError::Addresses { .. } => Number::Nomem,
            BuildError::Init(InitError::NoMemory { .. }) => Number::Nomem,
            BuildError::BadMemory(_) | BuildError::Init(_) => Number::Inval,
        };
        Failure { number, why: Why::Build(error) }
    }
}

impl From<Broken> for Failure {
    fn from(error: Broken) -> Failure {
        Failure { number: Number::Unclean, why: Why::Broken(error) }
    }
}

impl From<vmalloc_kernel::Error> for Failure {
    fn from(error: vmalloc_kernel::Error) -> Failure {
        let number = match error {
            vmalloc_kernel::Error::Alloc(error) => return error.into(),
            vmalloc_kernel::Error::Free(error) => return error.into(),
            vmalloc_kernel::Error::DoubleFree(_) => Number::Already,
            vmalloc_kernel::Error::NoArea(_) | vmalloc_kernel::Error::NotSlab(_) => Number::Noent,
            vmalloc_kernel::Error::WrongContext(_) => Number::Deadlk,
            _ => match error.errno() {
                Errno::E2BIG => Number::TooBig,
                Errno::ENOMEM => Number::Nomem,
                Errno::EBUSY => Number::Busy,
                Errno::EDQUOT => Number::Dquot,
                Errno::EINTR | Errno::EINVAL | Errno::ERANGE => Number::Inval,
            },
        };
        Failure { number, why: Why::Kernel(error) }
    }
}

/// The longest text, with the zero at its end.
const ROOM: usize = 512;

thread_local! {
    /// Without a destructor, and without memory of the heap.
    static LAST: Last = const { Last { number: Cell::new(0), text: UnsafeCell::new([0; ROOM]) } };
}

struct Last {
    number: Cell<c_int>,
    text: UnsafeCell<[u8; ROOM]>,
}

impl Last {
    fn set(&self, failure: &Failure) {
        self.number.set(failure.number as c_int);
        // SAFETY: the storage is this thread's, and the reference ends with this call.
        text::write(unsafe { &mut *self.text.get() }, failure);
    }
}

/// The number of the last error of this thread; 0 = it had none.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_last_error() -> c_int {
    LAST.with(|last| last.number.get())
}

/// The text of the last error of this thread, with the numbers of the call that was refused. It is
/// good until another call of this thread is refused.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_last_message() -> *const c_char {
    LAST.with(|last| last.text.get().cast_const().cast())
}

/// What an error number means, as a text that lasts. What was refused says `vmalloc_last_message`.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_strerror(number: c_int) -> *const c_char {
    let known = TEXTS.iter().find(|(known, _)| *known as c_int == number);
    known.map_or(c"no error of vmalloc has this number", |(_, text)| text).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::machine::Context;
    use vmalloc::units::VirtAddr;

    fn message() -> String {
        // SAFETY: CP2: it ends with a zero, and this thread makes no call meanwhile.
        unsafe { CStr::from_ptr(vmalloc_last_message()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn an_error_has_its_number_and_its_text_has_the_numbers_of_the_call() {
        let refused = |failure: Failure| (failure.note() as c_int, vmalloc_last_error(), message());
        let full = AllocError::NoAddresses { pages: 9, widest: 4 };
        assert_eq!(refused(full.into()), (-28, -28, "no gap of 9 pages; the widest is 4 pages".into()));
        let quota = AllocError::Refused(BUDGET_SPENT);
        assert_eq!(refused(quota.into()), (-122, -122, "the machine refused with error 122".into()));
        assert_eq!(refused(FreeError::NotAnArea(VirtAddr(0x1000)).into()).0, -2);
        assert_eq!(refused(AllocError::WrongContext(Context::Nmi).into()).0, -35);
    }

    #[test]
    fn each_number_is_that_of_an_errno_and_has_a_text_of_its_own() {
        let texts = TEXTS.map(|(number, _)| vmalloc_strerror(number as c_int));
        let unknown = vmalloc_strerror(-1);
        assert!((0..texts.len()).all(|at| texts[at] != unknown && !texts[..at].contains(&texts[at])));
        let numbers = TEXTS.map(|(number, _)| -(number as c_int));
        assert_eq!(numbers, [0, 2, 5, 7, 11, 12, 16, 22, 28, 35, 114, 117, 122, 131]);
    }
}
