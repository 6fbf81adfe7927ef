"""The judge and the step rewards inside other trainers; each module needs that trainer alone."""
