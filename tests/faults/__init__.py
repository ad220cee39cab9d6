"""The fault campaign on twins: the daemon as composed, every port faulty in turn, in virtual time."""
