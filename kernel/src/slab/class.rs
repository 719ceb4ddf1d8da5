//! Size classes: which objects share a page.

use vmalloc::units::PAGE_SIZE;

/// Bytes of an object, by class.
const SIZES: [usize; 11] = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048];
/// How many there are.
pub(super) const CLASSES: usize = SIZES.len();
/// The most objects that a page has.
pub(super) const MOST: usize = PAGE_SIZE / SIZES[0];

/// The class of the smallest objects that hold `bytes`; `None` above the largest.
pub(super) fn class_of(bytes: usize) -> Option<usize> {
    SIZES.iter().position(|&size| bytes <= size)
}

/// Bytes of an object.
pub(super) fn size_of_class(class: usize) -> usize {
    SIZES.get(class).copied().unwrap_or(PAGE_SIZE)
}

/// Objects in a page.
pub(super) fn objects(class: usize) -> usize {
    PAGE_SIZE / size_of_class(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_the_smallest_class_that_holds_it() {
        let of = |bytes: usize| class_of(bytes).map(size_of_class);
        assert_eq!([1, 8, 9, 65, 96, 97, 129, 193, 2048].map(of), {
            [8, 8, 16, 96, 96, 128, 192, 256, 2048].map(Some)
        });
        assert_eq!(of(2049), None);
        assert_eq!((objects(0), objects(4), MOST), (512, 42, 512));
    }
}
