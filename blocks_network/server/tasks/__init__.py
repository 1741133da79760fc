"""The brain: a task from its acceptance to its one terminal. `service.TaskService` is its front."""
