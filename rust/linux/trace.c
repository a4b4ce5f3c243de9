// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints, and functions for Rust to call: what a tracepoint costs when
 * it is off is a call and a jump over nothing.
 */
#define CREATE_TRACE_POINTS
#include "trace.h"

#include "helpers.h"

void vmem_trace_request_sent(struct device *dev, const char *kind,
			     u32 kind_len, u64 addr, u64 size)
{
	trace_virtio_mem_request_sent(dev, kind, kind_len, addr, size);
}

void vmem_trace_answer_received(struct device *dev, const char *kind,
				u32 kind_len, u64 addr, u64 size,
				const char *answer, u32 answer_len,
				u64 latency_us)
{
	trace_virtio_mem_answer_received(dev, kind, kind_len, addr, size,
					 answer, answer_len, latency_us);
}

void vmem_trace_block_added(struct device *dev, u64 addr, u64 size)
{
	trace_virtio_mem_block_added(dev, addr, size);
}

void vmem_trace_block_onlined(struct device *dev, u64 addr, u64 size,
			      const char *zone, u32 zone_len)
{
	trace_virtio_mem_block_onlined(dev, addr, size, zone, zone_len);
}

void vmem_trace_block_offlined(struct device *dev, u64 addr, u64 size)
{
	trace_virtio_mem_block_offlined(dev, addr, size);
}

void vmem_trace_block_removed(struct device *dev, u64 addr, u64 size)
{
	trace_virtio_mem_block_removed(dev, addr, size);
}

void vmem_trace_range_taken(struct device *dev, u64 addr, u64 size)
{
	trace_virtio_mem_range_taken(dev, addr, size);
}

void vmem_trace_range_refused(struct device *dev, u64 addr, u64 size,
			      const char *reason, u32 reason_len)
{
	trace_virtio_mem_range_refused(dev, addr, size, reason, reason_len);
}

void vmem_trace_step(struct device *dev, const char *step, u32 step_len,
		     const char *outcome, u32 outcome_len, u64 took_us)
{
	trace_virtio_mem_step(dev, step, step_len, outcome, outcome_len,
			      took_us);
}

void vmem_trace_state(struct device *dev, const char *state, u32 state_len,
		      const char *reason, u32 reason_len, u64 requested,
		      u64 plugged)
{
	trace_virtio_mem_state(dev, state, state_len, reason, reason_len,
			       requested, plugged);
}
