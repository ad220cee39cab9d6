/*
 * The part of NVML's binary interface that MortalGPU calls, declared from NVIDIA's public API reference.
 *
 * Sizes and order of members are the contract with the binding (nvidia-ml-py); the names are our own.
 */
#ifndef STANDIN_ABI_H
#define STANDIN_ABI_H

#include <stddef.h>

typedef unsigned int rc_t;
typedef unsigned long long u64;

enum {
    OK = 0,
    ERR_UNINITIALIZED = 1,
    ERR_INVALID_ARGUMENT = 2,
    ERR_NOT_SUPPORTED = 3,
    ERR_NOT_FOUND = 6,
    ERR_INSUFFICIENT_SIZE = 7,
    ERR_DRIVER_NOT_LOADED = 9,
    ERR_TIMEOUT = 10,
    ERR_GPU_IS_LOST = 15,
    ERR_LIB_RM_VERSION_MISMATCH = 18,
    ERR_INSUFFICIENT_RESOURCES = 23,
    ERR_VERSION_MISMATCH = 25,
    ERR_UNKNOWN = 999
};

#define NO_INSTANCE 0xFFFFFFFFu
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFull
#define EVENT_SINGLE_BIT_ECC 0x1ull
#define EVENT_DOUBLE_BIT_ECC 0x2ull
#define EVENT_XID 0x8ull

/* Opaque to the caller. A handle stays valid memory for ever, as stale handles must be answered, not crash. */
typedef struct handle *handle_t;
typedef struct event_set *event_set_t;

struct memory_v1 {
    u64 total, free, used;
};

struct memory_v2 {
    unsigned int version;
    u64 total, reserved, free, used;
};

struct utilization {
    unsigned int gpu, memory;
};

struct process_info {
    unsigned int pid;
    u64 used;
    unsigned int gi, ci;
};

struct process_sample {
    unsigned int pid;
    u64 timestamp;
    unsigned int sm, memory, encoder, decoder;
};

struct pci_info {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
};

struct attributes {
    unsigned int multiprocessors, copy_engines, decoders, encoders, jpeg, ofa, gi_slices, ci_slices;
    u64 memory_mib;
};

struct event_data {
    handle_t device;
    u64 type, data;
    unsigned int gi, ci;
};

#endif
