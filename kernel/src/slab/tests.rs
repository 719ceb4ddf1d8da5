//! Pages of objects, held against a model.

use super::class::{objects, size_of_class};
use super::sheet::Sheet;
use vmalloc::units::Pfn;

#[test]
fn a_page_gives_each_object_once_and_all_of_them() {
    for class in 0..super::CLASSES {
        let mut sheet = Sheet::of_objects(0x10000, Pfn(16), class, 2, 0);
        let (most, size) = (objects(class), size_of_class(class));
        for n in 0..most {
            assert!(sheet.has_room());
            assert_eq!(sheet.take(), Some(0x10000 + n * size), "class {class}, object {n}");
            assert!(sheet.is_out(n));
        }
        assert!(!sheet.has_room() && sheet.take().is_none(), "J5");
        sheet.put(most / 2);
        assert_eq!(sheet.take(), Some(0x10000 + most / 2 * size), "the lowest that is free");
    }
}

#[test]
fn an_address_is_told_apart_from_an_objects_start() {
    let sheet = Sheet::of_objects(0x10000, Pfn(16), 4, 2, 0);
    assert_eq!(sheet.object_at(0x10000 + 96), Some((1, 0x10060)));
    assert_eq!(sheet.object_at(0x10000 + 95), Some((0, 0x10000)));
    assert_eq!(sheet.object_at(0x10000 + 42 * 96), None, "what is left behind the last");
    let block = Sheet::of_block(0x10000, Pfn(16), 3);
    assert_eq!(block.object_at(0x10000 + 0x7fff), Some((0, 0x10000)));
    assert!(block.holds(0x17fff) && !block.holds(0x18000) && !block.holds(0xffff));
}
