use super::*;

#[test]
fn a_task_takes_little() {
    assert!(size_of::<Slot>() <= 120, "{}", size_of::<Slot>());
    assert!(size_of::<Def>() <= 112, "{}", size_of::<Def>());
    assert_eq!(size_of::<Entry>(), 16);
}

#[test]
fn the_higher_priority_has_the_lower_rank() {
    assert!(rank(100) < rank(0));
    assert!(rank(0) < rank(-100));
}
