"""Mirror of clip_pipeline.serving.push."""
