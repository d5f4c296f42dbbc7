//! Simulated clock and lossy network for tests.
