//! Memory that is free is used again, by whichever thread, and goes back to the kernel.

/// Has all threads take memory from the same place (`M_ARENA_MAX` of `mallopt(3)`) instead of one for each thread: what one
/// of them needed for a moment is there for the next. To be called before there are threads.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "a function of the C library that takes numbers and no pointer")]
pub(crate) fn share() {
    // SAFETY: no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Other C libraries do so on their own.
#[cfg(not(target_env = "gnu"))]
pub(crate) const fn share() {}

/// Gives back what was needed at the peak of some work: the C library keeps it, in the middle of what is in use too
/// (`malloc_trim(3)`). Takes milliseconds.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "a function of the C library that takes a number and no pointer")]
pub(crate) fn give_back() {
    // SAFETY: may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries give back on their own.
#[cfg(not(target_env = "gnu"))]
pub(crate) const fn give_back() {}
