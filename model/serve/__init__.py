"""An HTTP server in OpenAI's protocol over the generation engine."""
