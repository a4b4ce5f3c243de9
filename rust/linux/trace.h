/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The driver's tracepoints. Words come from Rust, with a length and without a
 * nul at the end.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM virtio_mem

#if !defined(VIRTIO_MEM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define VIRTIO_MEM_TRACE_H

#include <linux/device.h>
#include <linux/tracepoint.h>

TRACE_EVENT(virtio_mem_request_sent,
	TP_PROTO(struct device *dev, const char *kind, unsigned int kind_len,
		 u64 addr, u64 size),
	TP_ARGS(dev, kind, kind_len, addr, size),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__string_len(kind, kind, kind_len)
		__field(u64, addr)
		__field(u64, size)
	),
	TP_fast_assign(
		__assign_str(device);
		__assign_str(kind);
		__entry->addr = addr;
		__entry->size = size;
	),
	TP_printk("%s %s addr=%#llx size=%#llx", __get_str(device),
		  __get_str(kind), __entry->addr, __entry->size)
);

TRACE_EVENT(virtio_mem_answer_received,
	TP_PROTO(struct device *dev, const char *kind, unsigned int kind_len,
		 u64 addr, u64 size, const char *answer,
		 unsigned int answer_len, u64 latency_us),
	TP_ARGS(dev, kind, kind_len, addr, size, answer, answer_len, latency_us),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__string_len(kind, kind, kind_len)
		__string_len(answer, answer, answer_len)
		__field(u64, addr)
		__field(u64, size)
		__field(u64, latency_us)
	),
	TP_fast_assign(
		__assign_str(device);
		__assign_str(kind);
		__assign_str(answer);
		__entry->addr = addr;
		__entry->size = size;
		__entry->latency_us = latency_us;
	),
	TP_printk("%s %s addr=%#llx size=%#llx answer=%s latency_us=%llu",
		  __get_str(device), __get_str(kind), __entry->addr,
		  __entry->size, __get_str(answer), __entry->latency_us)
);

DECLARE_EVENT_CLASS(virtio_mem_range,
	TP_PROTO(struct device *dev, u64 addr, u64 size),
	TP_ARGS(dev, addr, size),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u64, addr)
		__field(u64, size)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->addr = addr;
		__entry->size = size;
	),
	TP_printk("%s addr=%#llx size=%#llx", __get_str(device), __entry->addr,
		  __entry->size)
);

/* Of memory blocks, also those that somebody else brings on- and offline. */
DEFINE_EVENT(virtio_mem_range, virtio_mem_block_added,
	TP_PROTO(struct device *dev, u64 addr, u64 size),
	TP_ARGS(dev, addr, size));
DEFINE_EVENT(virtio_mem_range, virtio_mem_block_offlined,
	TP_PROTO(struct device *dev, u64 addr, u64 size),
	TP_ARGS(dev, addr, size));
DEFINE_EVENT(virtio_mem_range, virtio_mem_block_removed,
	TP_PROTO(struct device *dev, u64 addr, u64 size),
	TP_ARGS(dev, addr, size));
/* Of sub-blocks, which leave the page allocator. */
DEFINE_EVENT(virtio_mem_range, virtio_mem_range_taken,
	TP_PROTO(struct device *dev, u64 addr, u64 size),
	TP_ARGS(dev, addr, size));

DECLARE_EVENT_CLASS(virtio_mem_range_word,
	TP_PROTO(struct device *dev, u64 addr, u64 size, const char *word,
		 unsigned int word_len),
	TP_ARGS(dev, addr, size, word, word_len),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u64, addr)
		__field(u64, size)
		__string_len(word, word, word_len)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->addr = addr;
		__entry->size = size;
		__assign_str(word);
	),
	TP_printk("%s addr=%#llx size=%#llx %s", __get_str(device),
		  __entry->addr, __entry->size, __get_str(word))
);

/* The word is the zone: "movable" or "kernel". */
DEFINE_EVENT(virtio_mem_range_word, virtio_mem_block_onlined,
	TP_PROTO(struct device *dev, u64 addr, u64 size, const char *word,
		 unsigned int word_len),
	TP_ARGS(dev, addr, size, word, word_len));
/* The word is the reason. */
DEFINE_EVENT(virtio_mem_range_word, virtio_mem_range_refused,
	TP_PROTO(struct device *dev, u64 addr, u64 size, const char *word,
		 unsigned int word_len),
	TP_ARGS(dev, addr, size, word, word_len));

TRACE_EVENT(virtio_mem_step,
	TP_PROTO(struct device *dev, const char *step, unsigned int step_len,
		 const char *outcome, unsigned int outcome_len, u64 took_us),
	TP_ARGS(dev, step, step_len, outcome, outcome_len, took_us),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__string_len(step, step, step_len)
		__string_len(outcome, outcome, outcome_len)
		__field(u64, took_us)
	),
	TP_fast_assign(
		__assign_str(device);
		__assign_str(step);
		__assign_str(outcome);
		__entry->took_us = took_us;
	),
	TP_printk("%s %s outcome=%s took_us=%llu", __get_str(device),
		  __get_str(step), __get_str(outcome), __entry->took_us)
);

TRACE_EVENT(virtio_mem_state,
	TP_PROTO(struct device *dev, const char *state, unsigned int state_len,
		 const char *reason, unsigned int reason_len, u64 requested,
		 u64 plugged),
	TP_ARGS(dev, state, state_len, reason, reason_len, requested, plugged),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__string_len(state, state, state_len)
		__string_len(reason, reason, reason_len)
		__field(u64, requested)
		__field(u64, plugged)
	),
	TP_fast_assign(
		__assign_str(device);
		__assign_str(state);
		__assign_str(reason);
		__entry->requested = requested;
		__entry->plugged = plugged;
	),
	TP_printk("%s state=%s reason=%s requested=%#llx plugged=%#llx",
		  __get_str(device), __get_str(state), __get_str(reason),
		  __entry->requested, __entry->plugged)
);

#endif

/* This part must be outside the protection. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
